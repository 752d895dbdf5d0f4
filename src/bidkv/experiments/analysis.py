"""What an experiment shows: a verdict for each cell and figure, pooled effects, and what forbids a claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bidkv.evaluation.baseline import choose_baseline
from bidkv.evaluation.figures import (
    COMPLETION_MEAN,
    COMPLETION_P99,
    COMPUTED_PER_NEW,
    E2E_MEAN,
    E2E_P99,
    FIRST_WAIT_P99,
    KV_USE,
    PREEMPTIONS,
    SESSION_TABLE,
    SESSIONS_DONE,
    TABLE,
    TAX,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    TURN_MEAN,
    TURN_P99,
    TURN_RATE,
    Figure,
    percent,
    rate,
)
from bidkv.evaluation.intervals import LEVEL
from bidkv.evaluation.latency_target import DEFAULT_TARGET, LatencyTarget, attainment, goodput_rps
from bidkv.evaluation.statistics import Interval, compare_cells, compare_pairs, order_effect
from bidkv.experiments.plan import ExperimentPlan, LoadPoint, policy_for_label
from bidkv.experiments.store import Store, StoredRun
from bidkv.policy import PolicySpecError, resolve

GOODPUT = Figure("goodput_rps", "goodput in requests per second", "goodput", "higher", rate)
ATTAINMENT = Figure("slo_attainment", "share of requests within the objective", "in SLO", "higher", percent)

REQUEST_VERDICTS = (E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, THROUGHPUT, GOODPUT, TAX)
"""The figures with verdicts, fixed before any result is seen; the first is the one the summary states."""

SESSION_VERDICTS = (
    TURN_RATE,
    TURN_MEAN,
    TURN_P99,
    SESSIONS_DONE,
    COMPLETION_MEAN,
    COMPLETION_P99,
    FIRST_WAIT_P99,
    COMPUTED_PER_NEW,
)
"""The figures with verdicts where the workload is sessions, in place of :data:`REQUEST_VERDICTS`."""

REQUEST_COLUMNS = (*TABLE, GOODPUT, ATTAINMENT)
"""The columns of the table of means, in order."""

SESSION_COLUMNS = (*SESSION_TABLE, PREEMPTIONS, TAX, KV_USE)
"""The same where the workload is sessions."""


class ComparisonVerdict(StrEnum):
    """What one cell shows of a strategy against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """The verdict on one cell and figure.

    Attributes:
        load: workload and rate.
        strategy: its label.
        figure: what was compared.
        pairs: number of pairs of runs.
        effect: the change against the baseline; None without pairs or without a value.
        verdict: what may be said.
        reason: why a claim is refused; else empty.
    """

    load: LoadPoint
    strategy: str
    figure: Figure
    pairs: int
    effect: Interval | None
    verdict: ComparisonVerdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StrategyVerdict:
    """All cells of one strategy and one figure, none left out.

    Attributes:
        counts: cells by verdict.
        by_chance: cells that chance alone would call better or worse, on average.
        effect: the change over all cells, equally weighted; None where a cell has no value.
    """

    strategy: str
    figure: Figure
    counts: Mapping[ComparisonVerdict, int]
    by_chance: float
    effect: Interval | None


@dataclass(frozen=True, slots=True)
class ExperimentAnalysis:
    """Everything an experiment shows.

    Attributes:
        plan: what was planned.
        baseline: the label all others are compared with.
        objective: behind goodput and attainment.
        runs: the results so far.
        figures: the figures with verdicts.
        columns: the figures of the table of means.
        cells: one verdict for each load, strategy but the baseline, and figure.
        overall: one for each strategy but the baseline, and figure.
        order: relative change of the first figure per position later in a group; None when it is not known.
        failures: cells without a result, and why.
    """

    plan: ExperimentPlan
    baseline: str
    objective: LatencyTarget
    runs: Sequence[StoredRun]
    figures: Sequence[Figure]
    columns: Sequence[Figure]
    cells: Sequence[CellVerdict]
    overall: Sequence[StrategyVerdict]
    order: Interval | None
    failures: Mapping[str, str]

    def cell(self, load: LoadPoint, strategy: str, figure: Figure) -> CellVerdict:
        """Return the verdict on one cell."""
        return next(
            cell
            for cell in self.cells
            if (cell.load, cell.strategy, cell.figure.path) == (load, strategy, figure.path)
        )


def analyze_store(
    store: Store, objective: LatencyTarget = DEFAULT_TARGET, level: float = LEVEL
) -> ExperimentAnalysis:
    """Judge what has run so far.

    Raises:
        SchemaError: a result file is broken.
        ValueError: nothing has run.
    """
    runs = list(store.runs())
    if not runs:
        raise ValueError(f"{store.folder}: no run has a result yet")
    failures = {str(cell): error for cell, error in store.failures().items()}
    return analyze_runs(store.plan, runs, objective, level, failures)


def analyze_runs(
    plan: ExperimentPlan,
    runs: Sequence[StoredRun],
    objective: LatencyTarget = DEFAULT_TARGET,
    level: float = LEVEL,
    failures: Mapping[str, str] | None = None,
) -> ExperimentAnalysis:
    """Judge runs that need not be in a folder; see :func:`analyze_store`."""
    table = _RunTable(runs, objective)
    judge = _Judge(plan, table, choose_baseline(plan.strategies), level)
    of_sessions = table.has_sessions
    figures = SESSION_VERDICTS if of_sessions else REQUEST_VERDICTS
    others = [label for label in plan.strategies if label != judge.baseline]
    cells = [
        judge.judge_cell(load, label, figure) for label in others for load in plan.loads for figure in figures
    ]
    return ExperimentAnalysis(
        plan=plan,
        baseline=judge.baseline,
        objective=objective,
        runs=runs,
        figures=figures,
        columns=SESSION_COLUMNS if of_sessions else REQUEST_COLUMNS,
        cells=cells,
        overall=[judge.judge_strategy(cells, label, figure) for label in others for figure in figures],
        order=order_effect(table.complete_groups(plan, figures[0]), level=level),
        failures=failures or {},
    )


def summarize_run(run: StoredRun, objective: LatencyTarget) -> dict[str, Any]:
    """Return a run's summary with the figures that depend on an objective."""
    return run.result.summary() | {
        "goodput_rps": goodput_rps(run.result, objective),
        "slo_attainment": attainment(run.result, objective),
    }


class _RunTable:
    """Runs and their summaries by load and strategy, then by repetition."""

    def __init__(self, runs: Iterable[StoredRun], objective: LatencyTarget) -> None:
        self.summaries: dict[tuple[LoadPoint, str], dict[int, dict[str, Any]]] = {}
        self.runs: dict[tuple[LoadPoint, str], dict[int, StoredRun]] = {}
        for run in runs:
            key, repetition = (run.cell.group.load, run.cell.strategy), run.cell.group.repetition
            self.summaries.setdefault(key, {})[repetition] = summarize_run(run, objective)
            self.runs.setdefault(key, {})[repetition] = run

    @property
    def has_sessions(self) -> bool:
        """Whether the runs have session figures."""
        return any(
            TURN_RATE.read(summary) is not None
            for runs in self.summaries.values()
            for summary in runs.values()
        )

    def pairs(
        self, load: LoadPoint, ours: str, theirs: str, figure: Figure
    ) -> tuple[list[int], list[float], list[float]]:
        """Return the repetitions in which both strategies have the figure, and its values."""
        a, b = self.summaries.get((load, ours), {}), self.summaries.get((load, theirs), {})
        both = [
            (n, x, y)
            for n in sorted(a.keys() & b.keys())
            if (x := figure.read(a[n])) is not None and (y := figure.read(b[n])) is not None
        ]
        return [n for n, _, _ in both], [x for _, x, _ in both], [y for _, _, y in both]

    def complete_groups(
        self, plan: ExperimentPlan, figure: Figure
    ) -> dict[str, list[dict[str, tuple[int, float]]]]:
        """Return the groups in which every strategy has a positive value, for :func:`order_effect`."""
        complete: dict[str, list[dict[str, tuple[int, float]]]] = {}
        for cells in plan.groups():
            group = {}
            for cell in cells:
                summary = self.summaries.get((cell.group.load, cell.strategy), {}).get(cell.group.repetition)
                value = None if summary is None else figure.read(summary)
                if value is not None and value > 0.0:
                    group[cell.strategy] = (cell.position, value)
            if len(group) == len(cells):
                complete.setdefault(str(cells[0].group.load), []).append(group)
        return complete


@dataclass(frozen=True, slots=True)
class _Judge:
    plan: ExperimentPlan
    table: _RunTable
    baseline: str
    level: float

    def judge_cell(self, load: LoadPoint, label: str, figure: Figure) -> CellVerdict:
        """Compare a strategy with the baseline at one load."""
        repetitions, ours, theirs = self.table.pairs(load, label, self.baseline, figure)
        if not repetitions:
            return CellVerdict(load, label, figure, 0, None, ComparisonVerdict.NOT_SHOWN)
        effect = compare_pairs(ours, theirs, level=self.level)
        verdict = ComparisonVerdict.NOT_SHOWN
        reason = ""
        if effect.is_shown:
            is_lower = effect.estimate < 0.0
            is_better = is_lower == (figure.better == "lower")
            verdict = ComparisonVerdict.BETTER if is_better else ComparisonVerdict.WORSE
            reason = self._find_objection(load, label, repetitions, verdict)
            if reason:
                verdict = ComparisonVerdict.REFUSED
        return CellVerdict(load, label, figure, len(repetitions), effect, verdict, reason)

    def judge_strategy(self, cells: Sequence[CellVerdict], label: str, figure: Figure) -> StrategyVerdict:
        """Put the verdicts of a strategy on one figure together."""
        own = [cell for cell in cells if cell.strategy == label and cell.figure is figure]
        counts = {verdict: sum(1 for cell in own if cell.verdict is verdict) for verdict in ComparisonVerdict}
        values = [self.table.pairs(load, label, self.baseline, figure)[1:] for load in self.plan.loads]
        effect = compare_cells(values, level=self.level) if all(ours for ours, _ in values) else None
        # Cells with a single pair have no interval and can raise no alarm.
        by_chance = (1.0 - self.level) * sum(1 for cell in own if cell.pairs > 1)
        return StrategyVerdict(label, figure, counts, by_chance, effect)

    def _find_objection(
        self, load: LoadPoint, label: str, repetitions: Sequence[int], verdict: ComparisonVerdict
    ) -> str:
        """Return why a difference must not be claimed for the policy; empty when it may be."""
        ours = [self.table.runs[load, label][n] for n in repetitions]
        theirs = [self.table.runs[load, self.baseline][n] for n in repetitions]
        # With sessions in closed loop, completing more is what is measured, and the number is no given.
        if verdict is ComparisonVerdict.BETTER and not self.table.has_sessions:
            completed, baselines = (sum(len(r.result.completed) for r in side) for side in (ours, theirs))
            if completed < baselines:
                return f"it completed {completed} requests, {self.baseline} {baselines}"
        if policy_for_label(label) == policy_for_label(self.baseline):
            return ""  # an A/A comparison: a difference found here is a false alarm, and must be seen
        reasons = [idle_reason(self.plan, *side) for side in ((label, ours), (self.baseline, theirs))]
        return reasons[0] if all(reasons) else ""


def idle_reason(plan: ExperimentPlan, label: str, runs: Sequence[StoredRun]) -> str:
    """Return why the policy cannot have made a difference in these runs; empty when it can have.

    Args:
        plan: what the runs are part of.
        label: the strategy's label.
        runs: its runs; their notes hold the controller's counters under "control".
    """
    try:
        policy = resolve(policy_for_label(label))
        admits = policy.chooses_next or policy.keeps_reserve
    except PolicySpecError:
        # A policy that is not installed where results are read: only its counted decisions are known.
        admits = False
    counters = [c for run in runs if isinstance(c := run.result.notes.get("control"), dict)]
    if not counters or len(counters) < len(runs):
        return "the engine reported no counters: nothing shows that the policy was in charge"
    total = {name: sum(c.get(name, 0) for c in counters) for name in counters[0]}
    if total.get("failures", 0):
        return f"the policy failed {total['failures']} times and the engine went on alone"
    if (admits and total.get("admissions", 0)) or total.get("session_drops", 0):
        return ""
    if not total.get("decisions", 0):
        return "the policy was never called"
    # SGLang asks for an order, which its own rule completes: what that would have been is not counted.
    asks_for_order = plan.options.get("scheduler", plan.engine) == "sglang"
    if not asks_for_order and not total.get("overrides", 0):
        return "the policy chose as the engine itself would have, every time"
    return ""
