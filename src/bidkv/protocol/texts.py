"""What a user writes and reads: lists with commas, and numbers without exponents."""

from __future__ import annotations

from decimal import Decimal

_LARGEST_WRITTEN_OUT = 1e15
_SMALLEST_WRITTEN_OUT = 1e-9


def split_list(text: str) -> list[str]:
    """Return the values of a comma-separated list, without the blanks around them.

    >>> split_list("fair, lcf")
    ['fair', 'lcf']

    Raises:
        ValueError: a value is empty.
    """
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        found = f"an empty one in {text!r:.80}" if len(values) > 1 else "none"
        raise ValueError(f"expected values with commas between them, found {found}")
    return values


def plain_number(value: float, digits: int) -> str:
    """Return a number with at least `digits` significant digits and without an exponent.

    >>> plain_number(13333.4, 3), plain_number(2.0, 3), plain_number(0.0000123, 2)
    ('13,333', '2', '0.000012')

    Args:
        value: what is written; beyond 1e15, and nearer to 0 than 1e-9, an exponent is shorter and stays.
        digits: significant digits; the whole part of a number is never rounded.
    """
    size = abs(value)
    if 10 ** (digits - 1) <= size < _LARGEST_WRITTEN_OUT:
        return f"{value:,.0f}"
    text = f"{value:,.{digits}g}"
    return f"{Decimal(text):f}" if _SMALLEST_WRITTEN_OUT <= size < 1.0 else text
