"""Nearest-rank percentiles, the definition that every report uses."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of an ascending sequence.

    Args:
        ordered: values in ascending order, at least one.
        percent: in (0, 100].

    >>> nearest_rank([1.0, 2.0, 3.0, 4.0], 50)
    2.0
    >>> nearest_rank([1.0, 2.0, 3.0, 4.0], 99)
    4.0
    """
    if not ordered:
        raise ValueError("a percentile needs at least one value")
    if not 0.0 < percent <= 100.0:
        raise ValueError("percent must be in (0, 100]")
    # The product is rounded first: 0.99 * 100 is 99.00000000000001 in binary and would skip a rank.
    rank = math.ceil(round(percent * len(ordered) / 100.0, 9))
    return ordered[max(rank, 1) - 1]
