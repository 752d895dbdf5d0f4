"""Values that a client sends along with a request: used where they make sense, ignored where they do not.

A client must not be able to fail its own request, or another client's, with such a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PREFIX = "bidkv_"
"""Begins every name that clients may state."""

LONGEST_NAME = 256
"""Characters of an agent's or a session's name; a longer one is ignored, since names are kept in memory."""


class ClientValues:
    """What a client stated with one request.

    vLLM takes it from `vllm_xargs` over HTTP and `SamplingParams.extra_args` in Python, SGLang from
    `custom_params`. The names are `bidkv_deadline_ms`, `bidkv_weight`, `bidkv_agent_id`, `bidkv_max_tokens`,
    `bidkv_session_id`, `bidkv_session_end` and `bidkv_gap_hint_s`.

    Args:
        stated: the engine's mapping of extra values; anything else counts as empty.

    Attributes:
        weight: relative worth of finishing the request; 1 when not stated.
        agent_id: which agent sent it; "" when not stated.
        shown_cap: see :func:`shown_cap`.
        session_id: the session it belongs to; "" when not stated.
        is_last_turn: whether the client said that the session ends with this request.
        gap_hint_s: seconds until the session's next request, as the client expects; None when not stated.
    """

    __slots__ = (
        "_deadline_ms",
        "agent_id",
        "gap_hint_s",
        "is_last_turn",
        "session_id",
        "shown_cap",
        "weight",
    )

    def __init__(self, stated: object) -> None:
        values: Mapping[str, Any] = stated if isinstance(stated, dict) else {}
        self._deadline_ms = positive_number(values.get(PREFIX + "deadline_ms"))
        self.weight = positive_number(values.get(PREFIX + "weight")) or 1.0
        self.agent_id = agent_name(values.get(PREFIX + "agent_id"))
        self.shown_cap = shown_cap(values.get(PREFIX + "max_tokens"))
        self.session_id = session_name(values.get(PREFIX + "session_id"))
        self.is_last_turn = is_stated(values.get(PREFIX + "session_end"))
        self.gap_hint_s = positive_number(values.get(PREFIX + "gap_hint_s"))

    def read_deadline_s(self, arrival_s: float) -> float | None:
        """Return the absolute deadline of a request that arrived at `arrival_s`, or None."""
        return None if self._deadline_ms is None else arrival_s + self._deadline_ms / 1e3


def positive_number(value: object) -> float | None:
    """Return a finite number above 0 from a number or a text, else None.

    >>> positive_number("2.5"), positive_number(10**400), positive_number(True), positive_number("nan")
    (2.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # an integer may be too large for a float
        return None
    return number if math.isfinite(number) and number > 0 else None


def agent_name(value: object) -> str:
    """Return a text of at most :data:`LONGEST_NAME` characters, "" for anything else."""
    return value if isinstance(value, str) and len(value) <= LONGEST_NAME else ""


def session_name(value: object) -> str:
    """Return a session's name from a text or an integer, "" for anything else.

    >>> session_name("chat-7"), session_name(7), session_name(True), session_name(10**300)
    ('chat-7', '7', '', '')
    """
    if type(value) is int and abs(value) < 10**LONGEST_NAME:
        return agent_name(str(value))
    return agent_name(value)


def is_stated(value: object) -> bool:
    """Return whether a switch is on: true, 1 or a text that says so.

    >>> [is_stated(value) for value in (True, 1, "true", "1", 0, "no", None, [1])]
    [True, True, True, True, False, False, False, False]
    """
    if isinstance(value, str):
        return value.strip().lower() in ("1", "true", "yes")
    return isinstance(value, int) and value == 1


def shown_cap(value: object) -> int | None:
    """Return the cap on generated tokens that policies see in place of the request's own, 0 for no cap.

    It is for senders that end requests at lengths no policy may know, as experiments do. None means that
    nothing usable was stated.

    >>> shown_cap(0), shown_cap(300), shown_cap(-1), shown_cap(2.5), shown_cap(None)
    (0, 300, None, None, None)
    """
    return value if type(value) is int and value >= 0 else None
