"""The simulated vLLM: a reference in Python and a compiled engine that equals it."""
