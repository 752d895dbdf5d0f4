"""Experiments on a real vLLM engine."""
