"""Standings of a tournament of sessions: paired ratios to vLLM's own order, intervals, lost cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from bidkv.evaluation.tables import aligned_table, markdown_table
from bidkv.tournament.paired import LOSS, MeanInterval, geometric_mean
from bidkv.tournament.plan import BASELINE
from bidkv.tournament.scores import count_broken
from bidkv.tournament.session_plan import Mode, SessionCell, SessionGroup, SessionPlan
from bidkv.tournament.session_scores import SessionScore

RATIOS = (
    "completion_mean_s",
    "completion_p99_s",
    "turn_mean_s",
    "turn_p99_s",
    "first_wait_p99_s",
    "turns_per_s",
    "computed_per_new",
)
"""Figures compared as a ratio to the baseline on the same cell."""

JUDGED: Mapping[Mode, tuple[str, ...]] = {
    "open": ("completion_mean_s", "completion_p99_s", "turn_mean_s"),
    "closed": ("turns_per_s",),
}
"""Figures for which lost cells are counted; of `turns_per_s` more is better."""

HEADINGS: Mapping[Mode, tuple[str, ...]] = {
    "open": ("policy", "session mean", "session p99", "turn mean", "first wait p99", "computed/new", "lost"),
    "closed": ("policy", "turns/s", "turn mean", "turn p99", "computed/new", "lost"),
}
_FIGURES: Mapping[Mode, tuple[str, ...]] = {
    "open": ("completion_mean_s", "completion_p99_s", "turn_mean_s", "first_wait_p99_s"),
    "closed": ("turns_per_s", "turn_mean_s", "turn_p99_s"),
}
FAMILY_HEADINGS: Mapping[Mode, tuple[str, ...]] = {
    "open": ("family", "size", "sessions held", "session mean", "session p99", "turn mean", "computed/new"),
    "closed": ("family", "size", "sessions held", "turns/s", "turn mean", "turn p99", "computed/new"),
}
LOST_HEADINGS = ("policy", "machine", "size", "family", "loop", "level", "figure", "ratio")


class LostSessionCell(NamedTuple):
    """A place in which a policy is worse than the baseline by its interval over seeds."""

    policy: str
    machine: str
    size: str
    family: str
    mode: Mode
    level: float
    metric: str
    ratio: MeanInterval


@dataclass(frozen=True)
class SessionStandings:
    """The result of a tournament of sessions.

    Attributes:
        plan: what was run.
        scores: by cell, then by policy.
        knees: sessions per second that policies sustain, by group and policy.
        residents: sessions that the memory holds, by group.
        simulated_turns: turns simulated for it; stored scores cost none.
        busy_s: seconds it took, summed over all processes.
    """

    plan: SessionPlan
    scores: Mapping[SessionCell, Mapping[str, SessionScore]]
    knees: Mapping[SessionGroup, Mapping[str, float]] = field(default_factory=dict)
    residents: Mapping[SessionGroup, int] = field(default_factory=dict)
    simulated_turns: int = 0
    busy_s: float = 0.0

    def ratio(
        self,
        policy: str,
        metric: str,
        *,
        mode: Mode | None = None,
        machine: str | None = None,
        size: str | None = None,
        families: Sequence[str] | None = None,
        levels: Sequence[float] | None = None,
    ) -> MeanInterval | None:
        """Return the geometric mean over cells of a metric of :data:`RATIOS`, relative to the baseline.

        Cells in which either has no value are left out; None when that leaves none. None in a filter takes
        all cells.
        """
        logs = [
            (cell.seed, log)
            for cell, scores in self.scores.items()
            if mode in (None, cell.mode)
            and machine in (None, cell.machine)
            and size in (None, cell.size)
            and (families is None or cell.family in families)
            and (levels is None or cell.level in levels)
            and (log := _log_ratio(scores, policy, metric)) is not None
        ]
        return geometric_mean(logs) if logs else None

    def knee_ratio(self, policy: str, *, machine: str | None = None) -> MeanInterval | None:
        """Return the geometric mean of the session rate a policy sustains, relative to the baseline's."""
        logs = [
            (group.seed, math.log(rates[policy] / rates[BASELINE]))
            for group, rates in self.knees.items()
            if machine in (None, group.machine) and rates.get(policy) and rates.get(BASELINE)
        ]
        return geometric_mean(logs) if logs else None

    def losses(self, policy: str) -> list[LostSessionCell]:
        """Return the places whose interval lies wholly on the wrong side of :data:`~.paired.LOSS`."""
        return [loss for loss in self._all_losses if loss.policy == policy]

    @cached_property
    def _all_losses(self) -> list[LostSessionCell]:
        places = dict.fromkeys(cell[:5] for cell in self.scores)
        found = []
        for machine, size, family, mode, level in places:
            for policy in self.plan.policies:
                for metric in JUDGED[mode]:
                    ratio = self.ratio(
                        policy,
                        metric,
                        mode=mode,
                        machine=machine,
                        size=size,
                        families=[family],
                        levels=[level],
                    )
                    if ratio is not None and _is_lost(metric, ratio):
                        found.append(
                            LostSessionCell(policy, machine, size, family, mode, level, metric, ratio)
                        )
        return found

    def broken(self) -> dict[str, int]:
        """Return the runs in which a policy failed and the engine's own order took over, by policy."""
        return count_broken(self.scores)

    def rows(
        self,
        mode: Mode,
        machine: str,
        *,
        size: str | None = None,
        families: Sequence[str] | None = None,
        levels: Sequence[float] | None = None,
    ) -> list[list[str]]:
        """Return one row per policy, the best first, of the cells that the filters leave."""

        def ratio(policy: str, metric: str) -> MeanInterval | None:
            return self.ratio(
                policy, metric, mode=mode, machine=machine, size=size, families=families, levels=levels
            )

        first = _FIGURES[mode][0]
        sign = -1.0 if first == "turns_per_s" else 1.0

        def rank(policy: str) -> float:
            value = ratio(policy, first)
            return math.inf if value is None else sign * value.value

        rows = []
        for policy in sorted(self.plan.policies, key=rank):
            figures = [ratio(policy, metric) for metric in (*_FIGURES[mode], "computed_per_new")]
            lost = {
                loss[1:6]
                for loss in self.losses(policy)
                if (loss.mode, loss.machine) == (mode, machine)
                and size in (None, loss.size)
                and (levels is None or loss.level in levels)
            }
            rows.append([policy, *map(_shown, figures), str(len(lost))])
        return rows

    def family_rows(
        self, policy: str, mode: Mode, machine: str, levels: Sequence[float] | None = None
    ) -> list[list[str]]:
        """Return one row per family and memory size of one policy, as ratios to the baseline.

        Computed tokens per new token are themselves, geometric means, the baseline's in brackets; beside them
        stands how many sessions the memory holds, as a mean over seeds.
        """
        rows = []
        places = dict.fromkeys(
            (cell.family, cell.size) for cell in self.scores if (cell.mode, cell.machine) == (mode, machine)
        )
        for family in self.plan.families:
            for size in self.plan.sizes:
                if (family, size) not in places:
                    continue
                ratios = [
                    self.ratio(
                        policy,
                        metric,
                        mode=mode,
                        machine=machine,
                        size=size,
                        families=[family],
                        levels=levels,
                    )
                    for metric in _FIGURES[mode][:3]
                ]
                computed = [
                    self._computed(name, mode, (machine, size, family), levels) for name in (policy, BASELINE)
                ]
                held = [
                    count for group, count in self.residents.items() if group[:3] == (machine, size, family)
                ]
                rows.append(
                    [
                        family,
                        size,
                        f"{sum(held) / len(held):.0f}" if held else "-",
                        *map(_shown, ratios),
                        f"{computed[0]} ({computed[1]})",
                    ]
                )
        return rows

    def _computed(
        self, policy: str, mode: Mode, place: tuple[str, str, str], levels: Sequence[float] | None
    ) -> str:
        logs = [
            math.log(figure)
            for cell, scores in self.scores.items()
            if cell[:4] == (*place, mode) and (levels is None or cell.level in levels)
            if (figure := scores[policy].computed_per_new)
        ]
        return f"{math.exp(sum(logs) / len(logs)):.2f}" if logs else "-"

    def lost_rows(self, policies: Sequence[str]) -> list[list[str]]:
        """Return one row per lost cell and figure of these policies, the worst first."""
        losses = [loss for policy in policies for loss in self.losses(policy)]
        losses.sort(key=lambda loss: -abs(math.log(loss.ratio.value)))
        return [
            [
                loss.policy,
                loss.machine,
                loss.size,
                loss.family,
                loss.mode,
                f"{loss.level:g}",
                loss.metric,
                str(loss.ratio),
            ]
            for loss in losses
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything under public names, ready for JSON."""
        return {
            "baseline": BASELINE,
            "plan": asdict(self.plan),
            "simulated_turns": self.simulated_turns,
            "busy_s": self.busy_s,
            "knees": [{**group._asdict(), "rates": dict(rates)} for group, rates in self.knees.items()],
            "residents": [{**group._asdict(), "sessions": n} for group, n in self.residents.items()],
            "policies": {
                policy: [
                    {
                        "machine": machine,
                        "mode": mode,
                        "level": level,
                        **{
                            metric: None if found is None else asdict(found)
                            for metric in RATIOS
                            for found in (
                                self.ratio(policy, metric, mode=mode, machine=machine, levels=[level]),
                            )
                        },
                    }
                    for machine in self.plan.machines
                    for mode, level in self._levels()
                ]
                for policy in self.plan.policies
            },
            "losses": [{**loss._asdict(), "ratio": asdict(loss.ratio)} for loss in self._all_losses],
            "broken": self.broken(),
            "cells": [
                {**cell._asdict(), "scores": {policy: score.as_dict() for policy, score in scores.items()}}
                for cell, scores in self.scores.items()
            ],
        }

    def _levels(self) -> list[tuple[Mode, float]]:
        opened: list[tuple[Mode, float]] = [("open", load) for load in self.plan.loads]
        return opened + [("closed", level) for level in self.plan.levels]

    def _parts(self) -> list[tuple[Mode, tuple[float, ...]]]:
        """The levels that are averaged together: up to the knee, past it, and those of the closed loop."""
        parts: list[tuple[Mode, tuple[float, ...]]] = [
            ("open", tuple(load for load in self.plan.loads if load <= 1.0)),
            ("open", tuple(load for load in self.plan.loads if load > 1.0)),
            ("closed", self.plan.levels),
        ]
        return [(mode, levels) for mode, levels in parts if levels]

    def text(self) -> str:
        """Return the tables of all machines for a terminal."""
        return "\n".join(self._lines(lambda headings, rows: aligned_table(headings, rows)))

    def markdown(self, command: str) -> str:
        """Return the tables of all machines and the lost cells as Markdown; `command` made the standings."""
        plan = self.plan
        lines = [
            f"Made by `{command}`: {len(plan.families)} families, seeds {', '.join(map(str, plan.seeds))}.",
            "",
            *self._lines(lambda headings, rows: ["", *markdown_table(headings, rows)], "### "),
        ]
        if lost := self.lost_rows([policy for policy in plan.policies if policy != BASELINE]):
            lines += ["", "### Lost cells", "", *markdown_table(LOST_HEADINGS, lost)]
        return "\n".join(lines)

    def _lines(self, table: Any, prefix: str = "") -> list[str]:
        lines: list[str] = []
        machines = self.plan.machines
        for machine in machines:
            for mode, levels in self._parts():
                if not any((c.machine, c.mode) == (machine, mode) for c in self.scores):
                    continue
                loop = "open loop, loads" if mode == "open" else "closed loop, multiples"
                title = f"{machine}, {loop} {', '.join(f'{level:g}' for level in levels)}"
                standing = self.rows(mode, machine, levels=levels)
                lines += [
                    *([""] if lines else []),
                    f"{prefix}{title}: ratios to {BASELINE}, geometric means, 95 % intervals over seeds",
                    *table(HEADINGS[mode], standing),
                ]
                best = next((row[0] for row in standing if row[0] != BASELINE), None)
                if best is not None and len(self.plan.families) * len(self.plan.sizes) > 1:
                    rows = self.family_rows(best, mode, machine, levels)
                    lines += [
                        "",
                        f"{prefix}{title}: {best} by family; computed/new in tokens, {BASELINE} in brackets",
                        *table(FAMILY_HEADINGS[mode], rows),
                    ]
        if self.plan.finds_knees:
            rows = [
                [
                    policy,
                    *("-" if (r := self.knee_ratio(policy, machine=m)) is None else str(r) for m in machines),
                ]
                for policy in self.plan.policies
            ]
            title = f"{prefix}session rate that a policy sustains, relative to {BASELINE}"
            lines += ["", title, *table(("policy", *machines), rows)]
        lines += [f"{policy} failed in {runs} runs" for policy, runs in self.broken().items()]
        return lines


def _is_lost(metric: str, ratio: MeanInterval) -> bool:
    if ratio.low is None or ratio.high is None:
        return False
    return ratio.high < 1.0 / LOSS if metric == "turns_per_s" else ratio.low > LOSS


def _log_ratio(scores: Mapping[str, SessionScore], policy: str, metric: str) -> float | None:
    ours, theirs = getattr(scores[policy], metric), getattr(scores[BASELINE], metric)
    return math.log(ours / theirs) if ours and theirs else None


def _shown(ratio: MeanInterval | None) -> str:
    return "-" if ratio is None else str(ratio)
