"""Student's interval, the one kind of interval that every comparison of this project states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

LEVEL = 0.95
"""Confidence level of every interval, unless a caller states another."""


def student_half_width(standard_error: float, freedom: float, level: float = LEVEL) -> float:
    """Return half the width of Student's two-sided interval around an estimate.

    Args:
        standard_error: of the estimate, in its own unit.
        freedom: degrees of freedom, above 0; need not be whole (Welch and Satterthwaite).
        level: of confidence, in (0, 1).
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2)) * standard_error


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return Student's interval of the mean of independent values; infinite ends for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = student_half_width(stdev(values) / math.sqrt(len(values)), len(values) - 1, level)
    return fmean(values) - half, fmean(values) + half
