"""Standings from scores: paired ratios, geometric means, intervals over seeds, lost cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from bidkv.tournament.paired import LOSS, MeanInterval, geometric_mean, mean_over_seeds
from bidkv.tournament.plan import BASELINE, TournamentCell, TournamentPlan
from bidkv.tournament.scores import Score, count_broken

JUDGED = ("mean_e2e_s", "p99_e2e_s", "mean_ttft_s", "p99_ttft_s", "longest_wait_s")
"""Figures for which lost cells are counted."""

RATIOS = (*JUDGED, "throughput_rps")
"""Figures compared as a ratio to the baseline on the same cell."""

LEVELS = ("recompute_tax", "slo_attainment")
"""Figures compared as they are, because both can be zero."""

_Cells = list[tuple[TournamentCell, Mapping[str, Score]]]


class LostCell(NamedTuple):
    """A (size, family, load) in which a policy is worse than the baseline by its interval over seeds."""

    policy: str
    size: str
    family: str
    load: float
    metric: str
    ratio: MeanInterval


@dataclass(frozen=True)
class Standings:
    """The result of a tournament.

    Attributes:
        plan: what was run.
        scores: by cell, then by policy.
        simulated_requests: requests simulated for it; stored scores cost none.
        busy_s: seconds it took, summed over all processes.
    """

    plan: TournamentPlan
    scores: Mapping[TournamentCell, Mapping[str, Score]]
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
    ) -> MeanInterval:
        """Geometric mean over cells of a metric of :data:`RATIOS`, relative to the baseline.

        Cells are paired. Logarithms are averaged over the cells of each seed, and the interval is Student's
        over the seeds. None in a filter takes all cells.
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
    ) -> MeanInterval:
        """Arithmetic mean over cells of a metric of :data:`LEVELS`, with its interval over seeds."""
        cells = self._cells(size, family, load)
        return mean_over_seeds([(cell.seed, getattr(scores[policy], metric)) for cell, scores in cells])

    def against_best(
        self, policy: str, rivals: Sequence[str], metric: str, *, size: str | None = None
    ) -> MeanInterval:
        """Geometric mean of a metric relative to whichever rival is best at each (size, family, load).

        The best rival is known only in hindsight; it could not have been chosen beforehand. Lower is better.
        """
        return geometric_mean(
            log for logs in self._logs_against_best(policy, rivals, metric, size) for log in logs
        )

    def near_best(
        self, policy: str, rivals: Sequence[str], metric: str, *, size: str | None = None
    ) -> tuple[int, int]:
        """Count the (size, family, load) at which a metric is at most :data:`LOSS` times the best rival's.

        Returns:
            How many these are, and of how many. The ratio is the geometric mean over the seeds.
        """
        ratios = [
            geometric_mean(logs).value for logs in self._logs_against_best(policy, rivals, metric, size)
        ]
        return sum(ratio <= LOSS for ratio in ratios), len(ratios)

    def _logs_against_best(
        self, policy: str, rivals: Sequence[str], metric: str, size: str | None
    ) -> Iterator[list[tuple[int, float]]]:
        """Yield (seed, logarithm of the ratio to the best rival) of each (size, family, load)."""
        for cells in self._places(size).values():
            best = min(rivals, key=lambda rival: _ratio(cells, rival, metric).value)
            yield [(cell.seed, _log_ratio(scores, policy, best, metric)) for cell, scores in cells]

    def most_preemptions(self, policy: str, *, size: str | None = None, load: float | None = None) -> int:
        """Return the most preemptions of one request in any cell."""
        return max(scores[policy].max_preemptions for _, scores in self._cells(size, None, load))

    def losses(self, policy: str) -> list[LostCell]:
        """Return the cells with the interval of a figure of :data:`JUDGED` wholly above :data:`LOSS`."""
        return [loss for loss in self._all_losses if loss.policy == policy]

    @cached_property
    def _all_losses(self) -> list[LostCell]:
        found = []
        for place, cells in self._places(None).items():
            for policy in self.plan.policies:
                for metric in JUDGED:
                    ratio = _ratio(cells, policy, metric)
                    if ratio.low is not None and ratio.low > LOSS:
                        found.append(LostCell(policy, *place, metric, ratio))
        return found

    def _places(self, size: str | None) -> dict[tuple[str, str, float], _Cells]:
        places: dict[tuple[str, str, float], _Cells] = {}
        for cell, scores in self._cells(size, None, None):
            places.setdefault((cell.size, cell.family, cell.load), []).append((cell, scores))
        return places

    def broken(self) -> dict[str, int]:
        """Return the runs in which a policy failed and the engine's own order took over, by policy."""
        return count_broken(self.scores)

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
            "plan": {**asdict(plan), "loads": [_as_json(load) for load in plan.loads]},
            "simulated_requests": self.simulated_requests,
            "busy_s": self.busy_s,
            "policies": {
                policy: [
                    {
                        "size": size,
                        "load": None if load is None else _as_json(load),
                        **{m: asdict(self.ratio(policy, m, size=size, load=load)) for m in RATIOS},
                        **{m: asdict(self.level(policy, m, size=size, load=load)) for m in LEVELS},
                        "max_preemptions": self.most_preemptions(policy, size=size, load=load),
                    }
                    for size, load in places
                ]
                for policy in plan.policies
            },
            "losses": [
                {**loss._asdict(), "load": _as_json(loss.load), "ratio": asdict(loss.ratio)}
                for loss in self._all_losses
            ],
            "broken": self.broken(),
            "cells": [
                {
                    **cell._asdict(),
                    "load": _as_json(cell.load),
                    "scores": {policy: score.as_dict() for policy, score in scores.items()},
                }
                for cell, scores in self.scores.items()
            ],
        }

    def text(self) -> str:
        """Return the tables of all sizes for a terminal."""
        # `print(standings)` is promised, and the tables read nothing but standings: they need each other.
        from bidkv.tournament.tables import as_text

        return as_text(self)

    def __str__(self) -> str:
        return self.text()


def _as_json(load: float) -> float | str:
    """Return a load as JSON has it: it knows no infinity."""
    return load if math.isfinite(load) else "inf"


def _ratio(cells: _Cells, policy: str, metric: str) -> MeanInterval:
    logs = [(cell.seed, _log_ratio(scores, policy, BASELINE, metric)) for cell, scores in cells]
    return geometric_mean(logs)


def _log_ratio(scores: Mapping[str, Score], policy: str, other: str, metric: str) -> float:
    return math.log(getattr(scores[policy], metric) / getattr(scores[other], metric))
