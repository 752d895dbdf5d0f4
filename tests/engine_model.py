"""The tiny model that tests serve on real engines: the package's own."""

from bidkv.experiments.tiny_model import VOCABULARY, write_config, write_model

__all__ = ["VOCABULARY", "write_config", "write_model"]
