"""What a model's folder says about requests that can be sent to it."""

from __future__ import annotations

import json
from pathlib import Path

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_UNKNOWN_VOCABULARY = 30_000


def has_tokenizer(model: str) -> bool:
    """Tell whether a model brings a tokenizer; one that is only a name is taken to."""
    folder = Path(model)
    return not folder.is_dir() or any((folder / name).exists() for name in _TOKENIZERS)


def vocabulary_of(model: str) -> int:
    """Return below which number token ids are safe: what config.json says, else what every model has."""
    config = Path(model) / "config.json"
    if not config.is_file():
        return _UNKNOWN_VOCABULARY
    content = json.loads(config.read_bytes())
    text = content.get("text_config", {})
    return int(content.get("vocab_size") or text.get("vocab_size") or _UNKNOWN_VOCABULARY)
