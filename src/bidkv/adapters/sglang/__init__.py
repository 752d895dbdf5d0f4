"""SGLang: its scheduler seen through this project's protocol, and hooks that carry answers back."""
