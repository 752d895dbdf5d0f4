"""What an experiment shows: a verdict for each cell and figure, pooled effects, and what forbids a claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bidkv.evaluation.baseline import choose_baseline
from bidkv.evaluation.figures import (
    E2E_MEAN,
    E2E_P99,
    TAX,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    Figure,
    percent,
    rate,
)
from bidkv.evaluation.intervals import LEVEL
from bidkv.evaluation.latency_target import DEFAULT_TARGET, LatencyTarget, attainment, goodput_rps
from bidkv.evaluation.statistics import Interval, compare_cells, compare_pairs, order_effect
from bidkv.experiments.plan import Load, Plan, policy_of
from bidkv.experiments.refusal import idle_reason
from bidkv.experiments.store import Store, StoredRun

GOODPUT = Figure("goodput_rps", "goodput in requests per second", "goodput", "higher", rate)
ATTAINMENT = Figure("slo_attainment", "share of requests within the objective", "in SLO", "higher", percent)
JUDGED = (E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, THROUGHPUT, GOODPUT, TAX)
"""The figures with verdicts, fixed before any result is seen; the first is the one the summary states."""


class Verdict(StrEnum):
    """What one cell shows of a strategy against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell's verdict.

    Attributes:
        load: workload and rate.
        strategy: its label.
        figure: what was compared.
        pairs: how many pairs of runs there are.
        effect: the change against the baseline; None without pairs or without a value.
        verdict: what may be said.
        reason: why a claim is refused; else empty.
    """

    load: Load
    strategy: str
    figure: Figure
    pairs: int
    effect: Interval | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Overall:
    """All cells of one strategy and one figure, none left out.

    Attributes:
        counts: cells by verdict.
        by_chance: cells that chance alone would call better or worse, on average.
        effect: the change over all cells, each counting the same; None where a cell has no value.
    """

    strategy: str
    figure: Figure
    counts: Mapping[Verdict, int]
    by_chance: float
    effect: Interval | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything an experiment shows.

    Attributes:
        plan: what was planned.
        baseline: the label all others are compared with.
        objective: behind goodput and attainment.
        runs: the results there are.
        judged: one for each load, strategy but the baseline, and figure.
        overall: one for each strategy but the baseline, and figure.
        order: relative change of the first figure per place later in a block; None when it cannot be told.
        failures: cells without result, and why.
    """

    plan: Plan
    baseline: str
    objective: LatencyTarget
    runs: Sequence[StoredRun]
    judged: Sequence[Judged]
    overall: Sequence[Overall]
    order: Interval | None
    failures: Mapping[str, str]

    def of(self, load: Load, strategy: str, figure: Figure) -> Judged:
        """Return the verdict of one cell."""
        return next(
            j for j in self.judged if (j.load, j.strategy, j.figure.path) == (load, strategy, figure.path)
        )

    def text(self) -> str:
        """Return the verdict in words, the most important first."""
        from bidkv.experiments.analysis_text import in_words

        return in_words(self)


def outcome_of(store: Store, objective: LatencyTarget = DEFAULT_TARGET, level: float = LEVEL) -> Outcome:
    """Judge what has run so far.

    Raises:
        SchemaError: a result file is broken.
        ValueError: nothing has run.
    """
    runs = list(store.runs())
    if not runs:
        raise ValueError(f"{store.folder}: no run has a result yet")
    failures = {str(cell): error for cell, error in store.failures().items()}
    return judge_runs(store.plan, runs, objective, level, failures)


def judge_runs(
    plan: Plan,
    runs: Sequence[StoredRun],
    objective: LatencyTarget = DEFAULT_TARGET,
    level: float = LEVEL,
    failures: Mapping[str, str] | None = None,
) -> Outcome:
    """Judge runs that need not be in a folder; see :func:`outcome_of`."""
    baseline = choose_baseline(plan.strategies)
    table = _Table(runs, objective)
    others = [label for label in plan.strategies if label != baseline]
    judged = [
        _judge(plan, table, load, label, baseline, figure, level)
        for label in others
        for load in plan.loads
        for figure in JUDGED
    ]
    overall = [
        _overall(table, plan, judged, label, baseline, figure, level) for label in others for figure in JUDGED
    ]
    order = order_effect(table.complete_blocks(plan, JUDGED[0]), level=level)
    return Outcome(plan, baseline, objective, runs, judged, overall, order, failures or {})


def summary_of(run: StoredRun, objective: LatencyTarget) -> dict[str, Any]:
    """Return a run's summary with the figures that depend on an objective."""
    return run.result.summary() | {
        "goodput_rps": goodput_rps(run.result, objective),
        "slo_attainment": attainment(run.result, objective),
    }


class _Table:
    """Runs by load, strategy and repetition."""

    def __init__(self, runs: Iterable[StoredRun], objective: LatencyTarget) -> None:
        self.summaries: dict[tuple[Load, str], dict[int, dict[str, Any]]] = {}
        self.runs: dict[tuple[Load, str], dict[int, StoredRun]] = {}
        for run in runs:
            key, repetition = (run.cell.block.load, run.cell.strategy), run.cell.block.repetition
            self.summaries.setdefault(key, {})[repetition] = summary_of(run, objective)
            self.runs.setdefault(key, {})[repetition] = run

    def pairs(
        self, load: Load, ours: str, theirs: str, figure: Figure
    ) -> tuple[list[int], list[float], list[float]]:
        """Repetitions in which both have the figure, and its values."""
        a, b = self.summaries.get((load, ours), {}), self.summaries.get((load, theirs), {})
        found = [
            (n, x, y)
            for n in sorted(a.keys() & b.keys())
            if (x := figure.read(a[n])) is not None and (y := figure.read(b[n])) is not None
        ]
        return [n for n, _, _ in found], [x for _, x, _ in found], [y for _, _, y in found]

    def complete_blocks(self, plan: Plan, figure: Figure) -> dict[str, list[dict[str, tuple[int, float]]]]:
        """Blocks in which every strategy has a positive value, for :func:`order_effect`."""
        found: dict[str, list[dict[str, tuple[int, float]]]] = {}
        for cells in plan.blocks():
            block = {}
            for cell in cells:
                summary = self.summaries.get((cell.block.load, cell.strategy), {}).get(cell.block.repetition)
                value = None if summary is None else figure.read(summary)
                if value is not None and value > 0.0:
                    block[cell.strategy] = (cell.position, value)
            if len(block) == len(cells):
                found.setdefault(str(cells[0].block.load), []).append(block)
        return found


def _judge(
    plan: Plan, table: _Table, load: Load, label: str, baseline: str, figure: Figure, level: float
) -> Judged:
    repetitions, ours, theirs = table.pairs(load, label, baseline, figure)
    if not repetitions:
        return Judged(load, label, figure, 0, None, Verdict.NOT_SHOWN)
    effect = compare_pairs(ours, theirs, level=level)
    verdict = Verdict.NOT_SHOWN
    if effect.is_shown:
        lower = effect.estimate < 0.0
        verdict = Verdict.BETTER if lower == (figure.better == "lower") else Verdict.WORSE
    reason = ""
    if verdict is not Verdict.NOT_SHOWN:
        reason = _forbidden(plan, table, load, label, baseline, repetitions, verdict)
    return Judged(
        load, label, figure, len(repetitions), effect, Verdict.REFUSED if reason else verdict, reason
    )


def _forbidden(
    plan: Plan,
    table: _Table,
    load: Load,
    label: str,
    baseline: str,
    repetitions: Sequence[int],
    verdict: Verdict,
) -> str:
    """Say why a difference must not be claimed for the policy; empty when it may be."""
    ours = [table.runs[load, label][n] for n in repetitions]
    theirs = [table.runs[load, baseline][n] for n in repetitions]
    if verdict is Verdict.BETTER:
        completed, of_theirs = (sum(len(r.result.completed) for r in side) for side in (ours, theirs))
        if completed < of_theirs:
            return f"it completed {completed} requests, {baseline} {of_theirs}"
    if policy_of(label) == policy_of(baseline):
        return ""  # an A/A comparison: what is called here is a false alarm, and must be seen
    reasons = [idle_reason(plan, name, side) for name, side in ((label, ours), (baseline, theirs))]
    return reasons[0] if all(reasons) else ""


def _overall(
    table: _Table,
    plan: Plan,
    judged: Sequence[Judged],
    label: str,
    baseline: str,
    figure: Figure,
    level: float,
) -> Overall:
    own = [j for j in judged if j.strategy == label and j.figure is figure]
    counts = {verdict: sum(1 for j in own if j.verdict is verdict) for verdict in Verdict}
    cells = [table.pairs(load, label, baseline, figure)[1:] for load in plan.loads]
    effect = compare_cells(cells, level=level) if all(ours for ours, _ in cells) else None
    # Cells with a single pair have no interval and can raise no alarm.
    by_chance = (1.0 - level) * sum(1 for j in own if j.pairs > 1)
    return Overall(label, figure, counts, by_chance, effect)
