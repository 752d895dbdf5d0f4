"""The simulated vLLM engine: a reference in Python and a compiled twin."""
