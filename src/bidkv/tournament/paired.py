"""Means over seeds with their intervals, of figures and of ratios of paired figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from bidkv.evaluation.intervals import mean_interval

LOSS = 1.01
"""A cell is lost when its interval lies wholly above this ratio: below 1 % no user would notice."""


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean with its 95 % interval over seeds; `low` and `high` are None with a single seed."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Write `0.871 [0.862, 0.880]`; without an interval only the value."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_seeds(figures: Iterable[tuple[int, float]]) -> MeanInterval:
    """Return the mean of the seeds' means, and Student's interval over the seeds.

    Args:
        figures: (seed, figure) of cells; the figures of one seed are averaged first.
    """
    by_seed: dict[int, list[float]] = {}
    for seed, figure in figures:
        by_seed.setdefault(seed, []).append(figure)
    means = [fmean(values) for values in by_seed.values()]
    if len(means) < 2:
        return MeanInterval(means[0], None, None)
    return MeanInterval(fmean(means), *mean_interval(means))


def geometric_mean(logs: Iterable[tuple[int, float]]) -> MeanInterval:
    """Return the geometric mean of (seed, logarithm of a ratio), with its interval over the seeds."""
    log = mean_over_seeds(logs)
    if log.low is None or log.high is None:
        return MeanInterval(math.exp(log.value), None, None)
    return MeanInterval(math.exp(log.value), math.exp(log.low), math.exp(log.high))
