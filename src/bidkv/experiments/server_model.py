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
    """Return below which number token ids are safe: what config.json says, else what every model has.

    Raises:
        ValueError: config.json is there but makes no sense.
    """
    config = Path(model) / "config.json"
    if not config.is_file():
        return _UNKNOWN_VOCABULARY
    try:
        content = json.loads(config.read_bytes())
        stated = content.get("vocab_size") or content.get("text_config", {}).get("vocab_size")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{config}: expected a JSON object with vocab_size ({error!r:.80})") from error
    if stated is None:
        return _UNKNOWN_VOCABULARY
    if type(stated) is not int or stated < 1:
        raise ValueError(f"{config}: vocab_size must be an integer >= 1, got {stated!r:.60}")
    return stated
