"""Paired differences with confidence intervals, pooled effects, and the effect of run order.

The unit is a pair of whole runs over identical requests: requests within one run wait for each other, so
comparing them one by one would take a single lucky run for hundreds of observations. Ratios are analyzed as
logarithms (a load that is twice as slow is as far from equal as one twice as fast).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimated effect and its confidence interval.

    Attributes:
        estimate: relative change (-0.05: 5 % less) or, where a value is 0, the plain difference.
        low: lower end.
        high: upper end; both infinite where one pair is all there is.
        relative: whether it is a relative change.
    """

    estimate: float
    low: float
    high: float
    relative: bool

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out "no difference"."""
        return self.low > 0.0 or self.high < 0.0

    def __str__(self) -> str:
        def one(value: float) -> str:
            return f"{100 * value:+.1f} %" if self.relative else f"{value:+.3g}"

        if math.isinf(self.low) or math.isinf(self.high):
            return f"{one(self.estimate)} (no interval from one pair)"
        return f"{one(self.estimate)} ({one(self.low)} to {one(self.high)})"


def paired(
    ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL, method: Method = "t"
) -> Interval:
    """Compare runs pair by pair.

    Args:
        ours: one figure a run.
        theirs: the same figure of the paired run, same order.
        level: of confidence, in (0, 1).
        method: "t" is Student's interval of the mean of the differences; "bootstrap" the bias-corrected
            accelerated bootstrap of it (Efron 1987), for many pairs with outliers.

    Returns:
        The change of ours against theirs: relative (geometric mean of the ratios) where all values are
        positive, else the plain mean difference.

    Raises:
        ValueError: no pair, different numbers of runs, or a level out of range.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"pairs need as many runs on both sides, got {len(ours)} and {len(theirs)}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    relative = min(*ours, *theirs) > 0.0
    differences = _differences(ours, theirs, relative)
    low, high = _interval(differences, level, method)
    return _back(float(np.mean(differences)), low, high, relative)


def pooled(cells: Sequence[tuple[Sequence[float], Sequence[float]]], *, level: float = LEVEL) -> Interval:
    """Compare runs of several cells (workloads, rates) at once, each cell counting the same.

    The estimate is the mean of the cells' mean differences; its variance is that of the pairs within cells,
    with the degrees of freedom of Welch and Satterthwaite. What varies between cells is real and no error.

    Raises:
        ValueError: no cell, or a cell without pairs.
    """
    if not cells:
        raise ValueError("pooling needs at least one cell")
    relative = all(min(*ours, *theirs) > 0.0 for ours, theirs in cells)
    means, terms, weights = [], [], 0.0
    for ours, theirs in cells:
        differences = _differences(ours, theirs, relative)
        means.append(float(np.mean(differences)))
        if len(differences) < 2:
            return _back(float(np.mean(means)), -math.inf, math.inf, relative)
        term = float(np.var(differences, ddof=1)) / len(differences)
        terms.append(term)
        weights += term**2 / (len(differences) - 1)
    estimate, variance = float(np.mean(means)), sum(terms)
    half = 0.0
    if variance > 0.0:
        quantile = stats.t.ppf(0.5 + level / 2, variance**2 / weights)
        half = float(quantile) * math.sqrt(variance) / len(cells)
    return _back(estimate, estimate - half, estimate + half, relative)


def order_effect(
    figures: Mapping[str, Sequence[Mapping[str, tuple[int, float]]]], *, level: float = LEVEL
) -> Interval | None:
    """Tell whether a run's place in its block changes its figure, strategies and blocks accounted for.

    Args:
        figures: for each load its complete blocks; a block maps each strategy to its position and figure
            (positive).

    Returns:
        Relative change per place later in a block; None where it cannot be told apart from the strategies
        (one repetition) or there are too few runs.
    """
    places, values, used = [], [], 0
    for blocks in figures.values():
        if len(blocks) < 2:
            continue
        names = sorted(blocks[0])
        if any(sorted(block) != names for block in blocks):
            raise ValueError("every block of a load must hold the same strategies")
        place = np.array([[block[name][0] for name in names] for block in blocks], dtype=float)
        value = np.log([[block[name][1] for name in names] for block in blocks])
        places.append(_doubly_centered(place))
        values.append(_doubly_centered(value))
        used += len(blocks) + len(names) - 1
    if not places:
        return None
    x = np.concatenate([part.ravel() for part in places])
    y = np.concatenate([part.ravel() for part in values])
    freedom = x.size - used - 1
    spread = float(x @ x)
    if spread < 1e-12 or freedom < 1:
        return None
    slope = float(x @ y) / spread
    rest = y - slope * x
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * math.sqrt(float(rest @ rest) / freedom / spread)
    return _back(slope, slope - half, slope + half, relative=True)


def _differences(ours: Sequence[float], theirs: Sequence[float], relative: bool) -> np.ndarray:
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return np.asarray(np.log(a) - np.log(b) if relative else a - b)


def _interval(differences: np.ndarray, level: float, method: Method) -> tuple[float, float]:
    if len(differences) < 2:
        return -math.inf, math.inf
    mean = float(np.mean(differences))
    if float(np.ptp(differences)) == 0.0:  # equal runs: the difference is known, not estimated
        return mean, mean
    if method == "bootstrap":
        found = stats.bootstrap(
            (differences,), np.mean, confidence_level=level, rng=np.random.default_rng(0)
        ).confidence_interval
        return float(found.low), float(found.high)
    half = float(stats.t.ppf(0.5 + level / 2, len(differences) - 1)) * float(stats.sem(differences))
    return mean - half, mean + half


def _back(estimate: float, low: float, high: float, relative: bool) -> Interval:
    """From logarithms back to relative changes."""
    if not relative:
        return Interval(estimate, low, high, relative)
    estimate, low, high = (math.expm1(v) if v < 700 else math.inf for v in (estimate, low, high))
    return Interval(estimate, low, high, relative)


def _doubly_centered(table: np.ndarray) -> np.ndarray:
    """Take out the means of rows (blocks) and of columns (strategies)."""
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    return np.asarray(table - rows - columns + table.mean())
