"""What the figures say, in sentences computed from them: who is best, by how much, where it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.evaluation.figures import (
    E2E_MEAN,
    E2E_P99,
    TAX,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    Figure,
    Summary,
    baseline_summary,
    nearly_equal,
)

_HEADLINE = (E2E_MEAN, E2E_P99, TAX)
_JUDGED = (E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, THROUGHPUT, TAX)
_KEEPING_UP = 0.95
"""Part of the arrivals that must be served in the end; some lag is the last requests' own latency."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on runs of one workload.

    Attributes:
        headline: which strategy has the best mean, p99 and tax, and by how much against the baseline.
        losses: where the strategy with the best mean is not the best; empty when there is none to compare.
        caution: what these runs cannot show.
    """

    headline: str
    losses: str
    caution: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.headline, self.losses, self.caution) if part)


def judge(summaries: Sequence[Summary], arrival_rps: float | None = None) -> Verdict:
    """Compare runs of one workload.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` a strategy, at least one.
        arrival_rps: mean arrival rate of the workload, to tell an overloaded engine; None when unknown.

    Raises:
        ValueError: there is no run to judge.
    """
    if not summaries:
        raise ValueError("a verdict needs at least one run")
    return Verdict(_headline(summaries), _losses(summaries), _caution(summaries, arrival_rps))


def _headline(summaries: Sequence[Summary]) -> str:
    baseline = baseline_summary(summaries)
    if len(summaries) == 1:
        figures = [f"{f.label} {_shown(f, baseline)}" for f in _HEADLINE]
        return f"{baseline['strategy']} ran alone: {_listed(figures)}."
    if all(_same(f, s, baseline) for f in _JUDGED for s in summaries):
        return f"All {len(summaries)} strategies give the same figures here."
    won: dict[str, list[str]] = {}
    for figure in _HEADLINE:
        if leaders := figure.leaders(summaries):
            who = _listed([s["strategy"] for s in leaders]) + (" has" if len(leaders) == 1 else " share")
            won.setdefault(who, []).append(f"{figure.label} ({_against(figure, summaries)})")
    parts = [f"{who} the best {_listed(figures)}" for who, figures in won.items()]
    return f"Of {len(summaries)} strategies on the same workload, {'; '.join(parts)}."


def _losses(summaries: Sequence[Summary]) -> str:
    if len(summaries) == 1 or not (leaders := E2E_MEAN.leaders(summaries)):
        return ""
    leader = leaders[0]
    baseline = baseline_summary(summaries)
    lost = []
    for figure in _JUDGED:
        if leader in figure.leaders(summaries):
            continue
        rival = figure.leaders(summaries)[0]
        text = f"{figure.label} ({_shown(figure, leader)}; {rival['strategy']} has {_shown(figure, rival)}"
        if leader is not baseline and rival is not baseline and _worse(figure, leader, baseline):
            text += f", {baseline['strategy']} {_shown(figure, baseline)}"
        lost.append(text + ")")
    if not lost:
        return f"{leader['strategy']} is beaten on none of the {len(_JUDGED)} figures compared."
    return f"{leader['strategy']} does not lead on {_listed(lost)}."


def _caution(summaries: Sequence[Summary], arrival_rps: float | None) -> str:
    parts = []
    if unfinished := [s for s in summaries if s["completed"] < s["requests"]]:
        who = _listed([f"{s['strategy']} {s['completed']:,} of {s['requests']:,}" for s in unfinished])
        parts.append(f"Not every request completed ({who}); latencies are of the completed ones.")
    served_rps = THROUGHPUT.best(summaries)
    if arrival_rps is not None and served_rps is not None and served_rps < _KEEPING_UP * arrival_rps:
        parts.append(
            f"The engine is overloaded: {arrival_rps:.2f} requests a second arrive, at most {served_rps:.2f} "
            "leave; latencies are mostly waiting and grow with the length of the trace."
        )
    if not any(s["preemptions"] for s in summaries):
        parts.append("Nothing was preempted: memory was never short, so no choice of victim mattered.")
    parts.append(
        "One run a strategy on one workload: this says nothing about other workloads, loads or memory sizes."
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
    if figure is TAX:
        return f"{100 * abs(mine - other):.1f} points {way}"
    return f"{100 * abs(mine - other) / other:.1f}% {way}" if other else f"{way}"


def _worse(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.read(ours), figure.read(theirs)
    if mine is None or other is None or nearly_equal(mine, other):
        return False
    return mine > other if figure.better == "lower" else mine < other


def _same(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.read(ours), figure.read(theirs)
    return mine is other is None or (mine is not None and other is not None and nearly_equal(mine, other))


def _shown(figure: Figure, summary: Summary) -> str:
    value = figure.read(summary)
    return "not measured" if value is None else figure.show(value)


def _listed(parts: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> _listed(["a"]), _listed(["a", "b"]), _listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
