"""What clients send along with a request: taken where it makes sense, ignored where it does not.

A client must not be able to fail its own request, or anybody else's, with a value made for that.
"""

from __future__ import annotations

import math

LONGEST_NAME = 256
"""Characters of an agent's name; a longer one is ignored."""


def positive_number(value: object) -> float | None:
    """Return a finite number above 0 out of a number or a text, else None.

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


def shown_cap(value: object) -> int | None:
    """Return the cap on generated tokens that policies see in place of the request's own, 0 for none at all.

    For senders that end requests at lengths no policy may know, as experiments do; None says nothing.

    >>> shown_cap(0), shown_cap(300), shown_cap(-1), shown_cap(2.5), shown_cap(None)
    (0, 300, None, None, None)
    """
    return value if type(value) is int and value >= 0 else None
