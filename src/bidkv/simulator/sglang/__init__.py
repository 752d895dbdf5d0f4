"""The simulated SGLang engine."""
