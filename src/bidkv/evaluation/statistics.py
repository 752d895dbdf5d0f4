"""Paired differences with confidence intervals, effects over many cells, and the effect of run order.

The unit of observation is a pair of whole runs over identical requests. The requests of one run wait for each
other, so counting them one by one would turn a single lucky run into hundreds of observations. Ratios are
analyzed as logarithms: twice as slow is as far from equal as twice as fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from bidkv.evaluation.intervals import LEVEL, mean_interval, student_half_width

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimated effect and its confidence interval.

    Attributes:
        estimate: relative change (-0.05: 5 % less) or, where a value is 0, the plain difference.
        low: lower end.
        high: upper end; both are infinite where there is only one pair.
        relative: whether it is a relative change.
    """

    estimate: float
    low: float
    high: float
    relative: bool

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes "no difference"."""
        return self.low > 0.0 or self.high < 0.0

    def __str__(self) -> str:
        def one(value: float) -> str:
            return f"{100 * value:+.1f} %" if self.relative else f"{value:+.3g}"

        if math.isinf(self.low) or math.isinf(self.high):
            return f"{one(self.estimate)} (no interval from one pair)"
        return f"{one(self.estimate)} ({one(self.low)} to {one(self.high)})"


def compare_pairs(
    ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL, method: Method = "t"
) -> Interval:
    """Compare runs pair by pair.

    Args:
        ours: one figure per run.
        theirs: the same figure of the paired run, in the same order.
        level: of confidence, in (0, 1).
        method: "t" is Student's interval of the mean difference; "bootstrap" is the bias-corrected
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
    low, high = _spread(differences, level, method)
    return _make_interval(float(np.mean(differences)), low, high, relative)


def compare_cells(
    cells: Sequence[tuple[Sequence[float], Sequence[float]]], *, level: float = LEVEL
) -> Interval:
    """Compare runs of several cells (workloads, rates) at once, with equal weight for each cell.

    The estimate is the mean of the cells' mean differences. Its variance comes from the pairs within cells,
    with the degrees of freedom of Welch and Satterthwaite; a difference between cells is real, not an error.

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
            return _make_interval(float(np.mean(means)), -math.inf, math.inf, relative)
        term = float(np.var(differences, ddof=1)) / len(differences)
        terms.append(term)
        weights += term**2 / (len(differences) - 1)
    estimate, variance = float(np.mean(means)), sum(terms)
    half = 0.0
    if variance > 0.0:
        freedom = variance**2 / weights
        half = student_half_width(math.sqrt(variance) / len(cells), freedom, level)
    return _make_interval(estimate, estimate - half, estimate + half, relative)


def order_effect(
    figures: Mapping[str, Sequence[Mapping[str, tuple[int, float]]]], *, level: float = LEVEL
) -> Interval | None:
    """Tell whether a run's place in its group changes its figure, with strategies and groups accounted for.

    Args:
        figures: for each load its complete groups of runs; a group maps each strategy to its position and
            its figure (positive).
        level: of confidence, in (0, 1).

    Returns:
        Relative change per place later in a group; None where it cannot be told apart from the strategies
        (one repetition) or where there are too few runs.
    """
    places, values, used = [], [], 0
    for groups in figures.values():
        if len(groups) < 2:
            continue
        names = sorted(groups[0])
        if any(sorted(group) != names for group in groups):
            raise ValueError("every group of a load must hold the same strategies")
        place = np.array([[group[name][0] for name in names] for group in groups], dtype=float)
        value = np.log([[group[name][1] for name in names] for group in groups])
        places.append(_doubly_centered(place))
        values.append(_doubly_centered(value))
        used += len(groups) + len(names) - 1
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
    half = student_half_width(math.sqrt(float(rest @ rest) / freedom / spread), freedom, level)
    return _make_interval(slope, slope - half, slope + half, relative=True)


def _differences(ours: Sequence[float], theirs: Sequence[float], relative: bool) -> np.ndarray:
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return np.asarray(np.log(a) - np.log(b) if relative else a - b)


def _spread(differences: np.ndarray, level: float, method: Method) -> tuple[float, float]:
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
    return mean_interval([float(difference) for difference in differences], level)


def _make_interval(estimate: float, low: float, high: float, relative: bool) -> Interval:
    """Turn logarithms back into relative changes."""
    if not relative:
        return Interval(estimate, low, high, relative)
    estimate, low, high = (math.expm1(v) if v < 700 else math.inf for v in (estimate, low, high))
    return Interval(estimate, low, high, relative)


def _doubly_centered(table: np.ndarray) -> np.ndarray:
    """Subtract the means of rows (groups) and of columns (strategies)."""
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    return np.asarray(table - rows - columns + table.mean())
