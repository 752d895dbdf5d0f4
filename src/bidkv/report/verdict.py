"""The verdict on runs of one workload, in sentences computed from their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bidkv.evaluation.conditions import (
    QueueGrowth,
    describe_memory,
    describe_overload,
    find_queue_growth,
)
from bidkv.evaluation.figures import (
    COMPLETION_MEAN,
    COMPLETION_P99,
    E2E_MEAN,
    E2E_P99,
    FIRST_WAIT_P99,
    LOST_PREFIX,
    SESSIONS_DONE,
    TAX,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    TURN_MEAN,
    TURN_P99,
    TURN_RATE,
    Figure,
    Summary,
    baseline_summary,
)
from bidkv.results import RunResult

_HEADLINE = (E2E_MEAN, E2E_P99, TAX)
"""Figures of the first sentence for single requests; the first of them decides which strategy leads."""

_JUDGED = (E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, THROUGHPUT, TAX)
"""Figures in which the leader is compared with the others."""

_SESSION_HEADLINE = (COMPLETION_MEAN, COMPLETION_P99, TURN_RATE)
"""The same for sessions, which are judged by when they complete."""

_TURN_HEADLINE = (TURN_MEAN, TURN_P99, TURN_RATE)
"""The same where some run completed few sessions, for instance one that was cut early."""

_SESSION_JUDGED = (
    COMPLETION_MEAN,
    COMPLETION_P99,
    TURN_MEAN,
    TURN_P99,
    FIRST_WAIT_P99,
    TURN_RATE,
    LOST_PREFIX,
)

_IN_POINTS = (TAX, LOST_PREFIX)
"""Shares: two of them are compared in percentage points."""

_FEW_SESSIONS = 20
"""Fewest completed sessions of a run whose completion times are compared."""


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """The verdict on runs of one workload.

    Attributes:
        headline: which strategies have the best figures, and by how much against the baseline.
        losses: where the strategy with the best mean is not the best; empty when there is none to compare.
        caution: under which conditions the runs were, and what they cannot show.
    """

    headline: str
    losses: str
    caution: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.headline, self.losses, self.caution) if part)


def judge(summaries: Sequence[Summary], growths: Sequence[QueueGrowth | None] | None = None) -> RunVerdict:
    """Compare runs of one workload.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` per strategy, at least one.
        growths: for each run the growth of its queue
            (:func:`~bidkv.evaluation.conditions.find_queue_growth`), which tells an overloaded engine; None
            where arrivals are no load (sessions in closed loop).

    Raises:
        ValueError: there is no run to judge.
    """
    if not summaries:
        raise ValueError("a verdict needs at least one run")
    headline, judged = _choose_figures(summaries)
    judged = [figure for figure in judged if any(figure.read(s) is not None for s in summaries)]
    return RunVerdict(
        _headline(summaries, headline, judged),
        _losses(summaries, judged),
        _caution(summaries, growths),
    )


def _choose_figures(summaries: Sequence[Summary]) -> tuple[Sequence[Figure], Sequence[Figure]]:
    """Return the figures of the headline, and those in which the leader is compared with the others."""
    if not all(summary.get("sessions") for summary in summaries):
        return _HEADLINE, _JUDGED
    if _fewest_sessions(summaries) >= _FEW_SESSIONS:
        return _SESSION_HEADLINE, _SESSION_JUDGED
    # Where few sessions completed, those are the short ones: their times would compare other sessions.
    return _TURN_HEADLINE, [f for f in _SESSION_JUDGED if f not in (COMPLETION_MEAN, COMPLETION_P99)]


def _fewest_sessions(summaries: Sequence[Summary]) -> float:
    return min(SESSIONS_DONE.read(summary) or 0.0 for summary in summaries)


def find_growths(results: Sequence[RunResult], config: Mapping[str, Any]) -> list[QueueGrowth | None] | None:
    """Return for each run the growth of its queue; None where sessions arrive in closed loop.

    Args:
        results: runs of one workload.
        config: what was run, the `config` object of `bidkv simulate --json`.
    """
    if config.get("concurrent_sessions") or config.get("sessions_at_once"):
        return None
    return [find_queue_growth(result) for result in results]


def _headline(summaries: Sequence[Summary], figures: Sequence[Figure], judged: Sequence[Figure]) -> str:
    baseline = baseline_summary(summaries)
    if len(summaries) == 1:
        shown = [f"{f.label} {_shown(f, baseline)}" for f in figures]
        return f"{baseline['strategy']} ran alone: {_join(shown)}."
    if all(_same(f, s, baseline) for f in judged for s in summaries):
        number = "Both" if len(summaries) == 2 else f"All {len(summaries)}"
        return f"{number} strategies give the same figures here."
    won: dict[str, list[str]] = {}
    for figure in figures:
        if leaders := figure.leaders(summaries):
            names = _join([s["strategy"] for s in leaders]) + (" has" if len(leaders) == 1 else " share")
            won.setdefault(names, []).append(f"{figure.label} ({_against(figure, summaries)})")
    parts = [f"{names} the best {_join(shown)}" for names, shown in won.items()]
    return f"Of {len(summaries)} strategies on the same workload, {'; '.join(parts)}."


def _losses(summaries: Sequence[Summary], judged: Sequence[Figure]) -> str:
    if len(summaries) == 1 or not judged or not (leaders := judged[0].leaders(summaries)):
        return ""
    baseline = baseline_summary(summaries)
    if all(_same(f, s, baseline) for f in judged for s in summaries):
        return ""
    leader = leaders[0]
    lost = []
    for figure in judged:
        if leader in figure.leaders(summaries):
            continue
        rival = figure.leaders(summaries)[0]
        text = f"{figure.label} ({_shown(figure, leader)}; {rival['strategy']} has {_shown(figure, rival)}"
        if leader is not baseline and rival is not baseline and _worse(figure, leader, baseline):
            text += f", {baseline['strategy']} {_shown(figure, baseline)}"
        lost.append(text + ")")
    if not lost:
        return f"{leader['strategy']} is beaten on none of the {len(judged)} figures compared."
    return f"{leader['strategy']} does not lead on {_join(lost)}."


def _caution(summaries: Sequence[Summary], growths: Sequence[QueueGrowth | None] | None) -> str:
    parts = []
    if unfinished := [s for s in summaries if s["completed"] < s["requests"]]:
        counts = _join([f"{s['strategy']} {s['completed']:,} of {s['requests']:,}" for s in unfinished])
        parts.append(f"Not every request completed ({counts}); latencies are of the completed ones.")
    if growths is not None:
        overload = describe_overload([s["strategy"] for s in summaries], growths)
        parts += [overload] if overload else []
    parts += describe_memory(summaries)
    if all(s.get("sessions") for s in summaries) and _fewest_sessions(summaries) < _FEW_SESSIONS:
        counts = _join([f"{s['strategy']} {SESSIONS_DONE.read(s) or 0.0:,.0f}" for s in summaries])
        parts.append(f"Few sessions completed ({counts}): their completion times are not compared.")
    parts.append(
        "One run per strategy on one workload says nothing about other workloads, loads or memory sizes."
    )
    return " ".join(parts)


def _against(figure: Figure, summaries: Sequence[Summary]) -> str:
    """Print the best value and its distance to the baseline, or to the runner-up where the baseline leads."""
    leader = figure.leaders(summaries)[0]
    baseline = baseline_summary(summaries)
    shown = _shown(figure, leader)
    if baseline not in figure.leaders(summaries):
        return f"{shown}, {_distance(figure, leader, baseline)} {baseline['strategy']}"
    runner_up = figure.leaders([s for s in summaries if s not in figure.leaders(summaries)])
    if not runner_up:
        return shown
    return f"{shown}, {_distance(figure, leader, runner_up[0])} {runner_up[0]['strategy']}"


def _distance(figure: Figure, ours: Summary, theirs: Summary) -> str:
    mine, other = figure.read(ours), figure.read(theirs)
    if mine is None or other is None:
        return "not measured for"
    way = "below" if mine < other else "above"
    if figure in _IN_POINTS:
        return f"{100 * abs(mine - other):.1f} points {way}"
    return f"{100 * abs(mine - other) / other:.1f}% {way}" if other else f"{way}"


def _worse(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.read(ours), figure.read(theirs)
    if mine is None or other is None or figure.are_alike(mine, other):
        return False
    return mine > other if figure.better == "lower" else mine < other


def _same(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.read(ours), figure.read(theirs)
    return mine is other is None or (mine is not None and other is not None and figure.are_alike(mine, other))


def _shown(figure: Figure, summary: Summary) -> str:
    value = figure.read(summary)
    return "not measured" if value is None else figure.show(value)


def _join(parts: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> _join(["a"]), _join(["a", "b"]), _join(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
