"""Experiments on real SGLang."""
