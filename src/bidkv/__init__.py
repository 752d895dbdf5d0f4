"""bidkv: the control plane for an LLM server's KV cache."""
