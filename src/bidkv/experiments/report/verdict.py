"""What the figures say, in sentences computed from them: who is best, by how much, where it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.experiments.figures import (
    E2E_MEAN,
    E2E_P99,
    TAX,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    Figure,
    Summary,
    baseline_of,
)

_HEADLINE = (E2E_MEAN, E2E_P99, TAX)
_JUDGED = (E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, THROUGHPUT, TAX)
_SAME = 1e-3
"""Values that differ by less than this part are called equal: no reader could act on less."""


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


def judge(summaries: Sequence[Summary]) -> Verdict:
    """Compare runs of one workload.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` a strategy, at least one.

    Raises:
        ValueError: there is no run to judge.
    """
    if not summaries:
        raise ValueError("a verdict needs at least one run")
    return Verdict(_headline(summaries), _losses(summaries), _caution(summaries))


def _headline(summaries: Sequence[Summary]) -> str:
    baseline = baseline_of(summaries)
    if len(summaries) == 1:
        figures = [f"{f.label} {_shown(f, baseline)}" for f in _HEADLINE]
        return f"{baseline['strategy']} ran alone: {_listed(figures)}."
    if all(_same(f, s, baseline) for f in _JUDGED for s in summaries):
        return f"All {len(summaries)} strategies give the same figures here."
    parts = [
        f"{_names(figure, summaries)} {_have(figure, summaries)} the best {figure.label} "
        f"({_against(figure, summaries)})"
        for figure in _HEADLINE
        if figure.best(summaries) is not None
    ]
    return f"Of {len(summaries)} strategies on the same workload, {_listed(parts)}."


def _losses(summaries: Sequence[Summary]) -> str:
    if len(summaries) == 1 or not (leaders := _leaders(E2E_MEAN, summaries)):
        return ""
    leader = leaders[0]
    baseline = baseline_of(summaries)
    lost = []
    for figure in _JUDGED:
        if any(s is leader for s in _leaders(figure, summaries)):
            continue
        rival = _leaders(figure, summaries)[0]
        text = f"{figure.label} ({_shown(figure, leader)}; {rival['strategy']} has {_shown(figure, rival)}"
        if leader is not baseline and rival is not baseline and _worse(figure, leader, baseline):
            text += f", {baseline['strategy']} {_shown(figure, baseline)}"
        lost.append(text + ")")
    if not lost:
        return f"{leader['strategy']} is beaten on none of the {len(_JUDGED)} figures compared."
    return f"{leader['strategy']} does not lead on {_listed(lost)}."


def _caution(summaries: Sequence[Summary]) -> str:
    parts = []
    if unfinished := [s for s in summaries if s["completed"] < s["requests"]]:
        who = _listed([f"{s['strategy']} {s['completed']:,} of {s['requests']:,}" for s in unfinished])
        parts.append(f"Not every request completed ({who}); latencies are of the completed ones.")
    if not any(s["preemptions"] for s in summaries):
        parts.append("Nothing was preempted: memory was never short, so no choice of victim mattered.")
    parts.append(
        "One run a strategy on one workload: this says nothing about other workloads, loads or memory sizes."
    )
    return " ".join(parts)


def _leaders(figure: Figure, summaries: Sequence[Summary]) -> list[Summary]:
    best = figure.best(summaries)
    if best is None:
        return []
    return [s for s in summaries if (v := figure.of(s)) is not None and _close(v, best)]


def _names(figure: Figure, summaries: Sequence[Summary]) -> str:
    return _listed([s["strategy"] for s in _leaders(figure, summaries)])


def _have(figure: Figure, summaries: Sequence[Summary]) -> str:
    return "has" if len(_leaders(figure, summaries)) == 1 else "share"


def _against(figure: Figure, summaries: Sequence[Summary]) -> str:
    """Print the best value and its distance to the baseline, or to the runner-up where the baseline leads."""
    leader = _leaders(figure, summaries)[0]
    baseline = baseline_of(summaries)
    shown = _shown(figure, leader)
    if not any(s is baseline for s in _leaders(figure, summaries)):
        return f"{shown}, {_distance(figure, leader, baseline)} {baseline['strategy']}"
    others = [s for s in summaries if not any(s is led for led in _leaders(figure, summaries))]
    if not others:
        return shown
    runner_up = _leaders(figure, others)
    return (
        f"{shown}, {_distance(figure, leader, runner_up[0])} {runner_up[0]['strategy']}"
        if runner_up
        else shown
    )


def _distance(figure: Figure, ours: Summary, theirs: Summary) -> str:
    mine, other = figure.of(ours), figure.of(theirs)
    if mine is None or other is None:
        return "not measured for"
    way = "below" if mine < other else "above"
    if figure is TAX:
        return f"{100 * abs(mine - other):.1f} points {way}"
    return f"{100 * abs(mine - other) / other:.1f}% {way}" if other else f"{way}"


def _worse(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.of(ours), figure.of(theirs)
    if mine is None or other is None or _close(mine, other):
        return False
    return mine > other if figure.better == "lower" else mine < other


def _same(figure: Figure, ours: Summary, theirs: Summary) -> bool:
    mine, other = figure.of(ours), figure.of(theirs)
    return mine is other is None or (mine is not None and other is not None and _close(mine, other))


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _SAME * max(abs(a), abs(b))


def _shown(figure: Figure, summary: Summary) -> str:
    value = figure.of(summary)
    return "not measured" if value is None else figure.show(value)


def _listed(parts: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> _listed(["a"]), _listed(["a", "b"]), _listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
