"""From scores to standings: paired ratios, geometric means, intervals over seeds, lost cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.special import stdtrit

from bidkv.tournament.plan import BASELINE, Cell, Plan
from bidkv.tournament.scores import Score

RATIOS = ("mean_e2e_s", "p99_e2e_s", "p99_ttft_s", "longest_wait_s", "throughput_rps")
"""Compared as a ratio to the baseline on the same cell."""

LEVELS = ("recompute_tax", "slo_attainment")
"""Compared as they are: both can be zero."""

_Cells = list[tuple[Cell, Mapping[str, Score]]]

LOSS = 1.01
"""A cell is lost when its interval lies wholly above this ratio."""

JUDGED = ("mean_e2e_s", "p99_e2e_s")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval over seeds; `low` and `high` are None with a single seed."""

    value: float
    low: float | None
    high: float | None


class Loss(NamedTuple):
    """A policy worse than the baseline beyond doubt, over all seeds of one (size, family, load)."""

    policy: str
    size: str
    family: str
    load: float
    metric: str
    ratio: Estimate


@dataclass(frozen=True)
class Standings:
    """The outcome of a tournament.

    Attributes:
        plan: what was played.
        scores: by cell, then by policy.
        simulated_requests: requests simulated for this (stored results cost none).
        busy_s: seconds of all processes together that took.
    """

    plan: Plan
    scores: Mapping[Cell, Mapping[str, Score]]
    simulated_requests: int = 0
    busy_s: float = 0.0

    def ratio(
        self,
        policy: str,
        metric: str,
        *,
        size: str | None = None,
        family: str | None = None,
        load: float | None = None,
    ) -> Estimate:
        """Geometric mean over cells of a metric of :data:`RATIOS`, relative to the baseline.

        Cells are paired; logarithms are averaged over the cells of each seed, and the interval is Student's t
        over the seeds. None in a filter takes all.
        """
        return _ratio(self._cells(size, family, load), policy, metric)

    def level(
        self,
        policy: str,
        metric: str,
        *,
        size: str | None = None,
        family: str | None = None,
        load: float | None = None,
    ) -> Estimate:
        """Arithmetic mean over cells of a metric of :data:`LEVELS`, with its interval over seeds."""
        cells = self._cells(size, family, load)
        return _over_seeds([(cell, getattr(scores[policy], metric)) for cell, scores in cells])

    def against_best(
        self, policy: str, rivals: Sequence[str], metric: str, *, size: str | None = None
    ) -> Estimate:
        """Geometric mean of a metric relative to whichever rival is best at each (size, family, load).

        The best rival is known only in hindsight: nobody could have chosen it before. Lower is better here.
        """
        logs = []
        for cells in self._places(size).values():
            best = min(rivals, key=lambda rival: _ratio(cells, rival, metric).value)
            logs += [(cell, _log_ratio(scores, policy, best, metric)) for cell, scores in cells]
        return _exp(_over_seeds(logs))

    def most_preemptions(self, policy: str, *, size: str | None = None, load: float | None = None) -> int:
        """Preemptions of the request that suffered most in any cell."""
        return max(scores[policy].max_preemptions for _, scores in self._cells(size, None, load))

    def losses(self, policy: str) -> list[Loss]:
        """The (size, family, load) whose interval of mean or p99 latency lies wholly above :data:`LOSS`."""
        return [loss for loss in self._all_losses if loss.policy == policy]

    @cached_property
    def _all_losses(self) -> list[Loss]:
        found = []
        for place, cells in self._places(None).items():
            for policy in self.plan.policies:
                for metric in JUDGED:
                    ratio = _ratio(cells, policy, metric)
                    if ratio.low is not None and ratio.low > LOSS:
                        found.append(Loss(policy, *place, metric, ratio))
        return found

    def _places(self, size: str | None) -> dict[tuple[str, str, float], _Cells]:
        places: dict[tuple[str, str, float], _Cells] = {}
        for cell, scores in self._cells(size, None, None):
            places.setdefault((cell.size, cell.family, cell.load), []).append((cell, scores))
        return places

    def broken(self) -> dict[str, int]:
        """Runs in which a policy failed and the engine's own rule took over, by policy; empty is good."""
        counts: dict[str, int] = {}
        for scores in self.scores.values():
            for policy, score in scores.items():
                if score.failures:
                    counts[policy] = counts.get(policy, 0) + 1
        return counts

    def _cells(self, size: str | None, family: str | None, load: float | None) -> _Cells:
        return [
            (cell, scores)
            for cell, scores in self.scores.items()
            if size in (None, cell.size) and family in (None, cell.family) and load in (None, cell.load)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything under public names, ready for JSON."""
        plan = self.plan
        places = [(size, load) for size in plan.sizes for load in (None, *plan.loads)]
        return {
            "baseline": BASELINE,
            "plan": asdict(plan),
            "simulated_requests": self.simulated_requests,
            "busy_s": self.busy_s,
            "policies": {
                policy: [
                    {
                        "size": size,
                        "load": load,
                        **{m: asdict(self.ratio(policy, m, size=size, load=load)) for m in RATIOS},
                        **{m: asdict(self.level(policy, m, size=size, load=load)) for m in LEVELS},
                        "max_preemptions": self.most_preemptions(policy, size=size, load=load),
                    }
                    for size, load in places
                ]
                for policy in plan.policies
            },
            "losses": [{**loss._asdict(), "ratio": asdict(loss.ratio)} for loss in self._all_losses],
            "broken": self.broken(),
            "cells": [
                {**cell._asdict(), "scores": {policy: score.as_dict() for policy, score in scores.items()}}
                for cell, scores in self.scores.items()
            ],
        }

    def __str__(self) -> str:
        from bidkv.tournament.tables import as_text

        return as_text(self)


def _ratio(cells: _Cells, policy: str, metric: str) -> Estimate:
    return _exp(_over_seeds([(cell, _log_ratio(scores, policy, BASELINE, metric)) for cell, scores in cells]))


def _log_ratio(scores: Mapping[str, Score], policy: str, other: str, metric: str) -> float:
    return math.log(getattr(scores[policy], metric) / getattr(scores[other], metric))


def _over_seeds(figures: Iterable[tuple[Cell, float]]) -> Estimate:
    by_seed: dict[int, list[float]] = {}
    for cell, figure in figures:
        by_seed.setdefault(cell.seed, []).append(figure)
    means = [fmean(values) for values in by_seed.values()]
    value = fmean(means)
    if len(means) < 2:
        return Estimate(value, None, None)
    half = float(stdtrit(len(means) - 1, 0.975)) * stdev(means) / math.sqrt(len(means))
    return Estimate(value, value - half, value + half)


def _exp(log: Estimate) -> Estimate:
    if log.low is None or log.high is None:
        return Estimate(math.exp(log.value), None, None)
    return Estimate(math.exp(log.value), math.exp(log.low), math.exp(log.high))
