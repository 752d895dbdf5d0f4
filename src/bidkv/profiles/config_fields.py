"""Fields of a Hugging Face config.json: where the text model stands, and counts that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bidkv.profiles.errors import ProfileError, quoted

_MOST = 10**9
"""Largest count in a config.json that is believed."""

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Fields under which multimodal configs keep their text model."""

_FAMILY_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {
        "head_dim": 256,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
    },
    "gemma3": {
        "head_dim": 256,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "cohere2": {"tie_word_embeddings": True, "sliding_window": 4096, "sliding_window_pattern": 4},
    "qwen3_next": {"full_attention_interval": 4},
    "qwen3_5": {"full_attention_interval": 4},
    "qwen3_5_moe": {"full_attention_interval": 4},
    "deepseek_v2": {"first_k_dense_replace": 0},
}
"""What the model classes of the `transformers` library (4.57) assume where a config leaves a field out."""

_ARCHITECTURES: Mapping[str, str] = {
    "Gemma3": "gemma3",
    "Gemma2": "gemma2",
    "GemmaFor": "gemma",
    "Cohere2": "cohere2",
    "Qwen3Next": "qwen3_next",
    "Qwen3_5Moe": "qwen3_5_moe",
    "Qwen3_5For": "qwen3_5",
}


class ConfigFields:
    """The text model of a config.json; every getter names file and field in its error.

    Args:
        config: the parsed file.
        where: its name in messages.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.outer = config
        text: Mapping[str, Any] = config
        for nested in _NESTED:
            inner = text.get(nested)
            if isinstance(inner, dict):
                outer = {"tie_word_embeddings": text.get("tie_word_embeddings")} if text is config else {}
                text = {**outer, **inner}
        self._text = {**_FAMILY_DEFAULTS.get(_family(config, text), {}), **_without_none(text)}

    def get(self, field: str) -> Any:
        """Return a field's value, or None."""
        return self._text.get(field)

    def has(self, field: str) -> bool:
        """Return whether a field is there and neither 0 nor empty."""
        return bool(self._text.get(field))

    def count(self, field: str, default: int | None = None) -> int:
        """Return a whole number of at least 1.

        Raises:
            ProfileError: no such number, and no default.
        """
        value = self._text.get(field)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(field, "a whole number above 0")
        if value > _MOST:
            raise self.error(field, f"at most {_MOST:,}")
        return value

    def count_or_zero(self, field: str) -> int:
        """Return a whole number, 0 where the field is missing or 0."""
        return self.count(field) if self._text.get(field) not in (None, 0) else 0

    def first_of(self, *fields: str) -> str:
        """Return the first of the fields that is there; the first one where none is, for its error."""
        return next((field for field in fields if self._text.get(field) is not None), fields[0])

    def names(self, field: str) -> Sequence[str] | None:
        """Return a list of names, or None.

        Raises:
            ProfileError: something else.
        """
        value = self._text.get(field)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or not value:
            raise self.error(field, "a list of names")
        return value

    def error(self, field: str, expected: str) -> ProfileError:
        """Return the error for a field that holds something else."""
        return ProfileError(
            f"{self.where}: field {field}: expected {expected}, got {quoted(self._text.get(field))}"
        )


def _family(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """Return the family whose defaults apply; "" for one without any."""
    for source in (text, config):
        kind = source.get("model_type")
        if isinstance(kind, str):
            return kind.removesuffix("_text")
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return next((family for start, family in _ARCHITECTURES.items() if first.startswith(start)), "")


def _without_none(config: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in config.items() if value is not None}
