"""What a person states about a trace that its file does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bidkv.workloads.traces.limits import MAX_TOKENS

TIME_UNITS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each unit that `--time-unit` takes."""

COLUMN_ROLES = ("time", "prompt", "output", "session", "agent", "priority", "max_tokens", "weight")
"""What a column can be said to hold with `--columns`."""


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Statements about a trace; None and {} leave it to the file.

    Attributes:
        time_unit: unit of numeric timestamps, a key of `TIME_UNITS`.
        tokens_per_hash_id: prompt tokens that one hash id stands for.
        columns: column that holds each of `COLUMN_ROLES`, for tables of no known format.
        tokens_per_image: prompt tokens of one image.
        characters_per_token: counts the tokens of texts by their length, which is an estimate.
        tokenizer: a `tokenizer.json` file, or a folder that holds one, that counts the tokens of texts.
        input_lengths: whether a turn's `input_length` counts its "new" tokens or the "whole" prompt.
        answer_tokens_per_s: speed of answers, to tell the gap before a turn from the time the previous answer
            took, where a file has arrivals only. None takes the answer's time as part of the gap.
    """

    time_unit: str | None = None
    tokens_per_hash_id: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    tokens_per_image: int | None = None
    characters_per_token: float | None = None
    tokenizer: str | None = None
    input_lengths: str | None = None
    answer_tokens_per_s: float | None = None

    @classmethod
    def from_statements(cls, stated: Mapping[str, Any]) -> TraceOptions:
        """Return options of a command line, where columns are one text (:func:`parse_columns`).

        Raises:
            ValueError: one makes no sense; the message names the option.
        """
        given = dict(stated)
        if type(given.get("columns")) is str:
            try:
                given["columns"] = parse_columns(given["columns"])
            except ValueError as error:
                raise ValueError(f"--columns: {error}") from error
        try:
            return cls(**given)
        except TypeError as error:  # of a plan that was edited by hand
            raise ValueError(f"trace options: {error}") from error

    def __post_init__(self) -> None:
        _check_choice("--time-unit", self.time_unit, tuple(TIME_UNITS))
        _check_choice("--input-lengths", self.input_lengths, ("new", "whole"))
        _check_range("--tokens-per-hash-id", self.tokens_per_hash_id, 1, MAX_TOKENS)
        _check_range("--tokens-per-image", self.tokens_per_image, 0, MAX_TOKENS)
        _check_range("--characters-per-token", self.characters_per_token, 0.1, 1000)
        _check_range("--answer-tokens-per-s", self.answer_tokens_per_s, 1e-3, 1e9)
        for role in self.columns:
            if role not in COLUMN_ROLES:
                raise ValueError(f"--columns: expected one of {', '.join(COLUMN_ROLES)}, found {role!r:.60}")


def parse_columns(text: str) -> dict[str, str]:
    """Return the columns stated as "time=start,prompt=in_tokens,output=out_tokens".

    Raises:
        ValueError: not of that form, or a role that is unknown or stated twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, equals, column = (piece.strip() for piece in part.partition("="))
        if not (equals and column) or role not in COLUMN_ROLES:
            raise ValueError(
                f"expected ROLE=COLUMN, with a role out of {', '.join(COLUMN_ROLES)}, found {part!r:.60}"
            )
        if role in columns:
            raise ValueError(f"expected one column for {role!r}, found two")
        columns[role] = column
    return columns


def _check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ValueError(f"{option}: expected one of {', '.join(choices)}, found {value!r:.60}")


def _check_range(option: str, value: Any, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{option}: expected a number from {low:g} to {high:,}, found {value!r:.60}")
