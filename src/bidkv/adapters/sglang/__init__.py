"""Real SGLang: its scheduler as a policy sees it, and the hooks that carry answers back."""
