"""The conditions a run was under: a growing queue, a prefix cache that thrashes, memory that was short."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.evaluation.figures import HIT_RATE, LOST_PREFIX, Summary, percent
from bidkv.results import RunResult

_GROWTH_SHARE = 0.045
"""A queue grows when it keeps more than this share of the arrivals of a period.

Chance leaves less of a stable queue, and at 1.1 of the sustainable rate 9 % stay behind.
"""

_CHANCE = 3.0
"""A queue grows only by more than this many standard deviations of a Poisson number of arrivals."""

_SHORTEST_SHARE = 0.02
"""A period must last this share of the time in which requests arrive; a shorter one is a burst."""

THRASH_SHARE = 0.1
"""From this share of lost prefixes on, in the computed tokens, the prefix cache thrashes."""

SOME_LOST_SHARE = 0.01
"""From this share of lost prefixes on, memory was short for prefixes."""


@dataclass(frozen=True, slots=True)
class QueueGrowth:
    """The period in which a queue grew most, where it grew beyond chance.

    Attributes:
        start_s: its beginning, in seconds of the run.
        end_s: its end.
        arrivals: requests that arrived in it.
        kept: requests by which the queue grew.
    """

    start_s: float
    end_s: float
    arrivals: int
    kept: int

    @property
    def arrival_rate_rps(self) -> float:
        """Arrivals per second in the period."""
        return self.arrivals / (self.end_s - self.start_s)

    @property
    def entry_rate_rps(self) -> float:
        """Requests per second that left the queue in the period."""
        return (self.arrivals - self.kept) / (self.end_s - self.start_s)


def find_queue_growth(result: RunResult) -> QueueGrowth | None:
    """Return the period in which the queue grew most; None where it grew no more than chance explains.

    Only the time in which requests arrive counts. The drain after the last arrival says nothing about a load,
    and neither does a workload whose requests all arrive at once.
    """
    arrivals, weight = result.arrival_sample
    if len(arrivals) < 2 or not arrivals[-1] > arrivals[0]:
        return None
    points = [point for point in result.timeline if arrivals[0] <= point.time_s <= arrivals[-1]]
    lowest: tuple[float, int] = (arrivals[0], 0)
    best: tuple[int, float, float] | None = None
    for point in points:
        rise = point.waiting - lowest[1]
        if best is None or rise > best[0]:
            best = (rise, lowest[0], point.time_s)
        if point.waiting <= lowest[1]:
            lowest = (point.time_s, point.waiting)
    if best is None:
        return None
    rise, start_s, end_s = best
    arrived = weight * (bisect_right(arrivals, end_s) - bisect_left(arrivals, start_s))
    is_long = end_s - start_s > _SHORTEST_SHARE * (arrivals[-1] - arrivals[0])
    if not is_long or rise <= max(_GROWTH_SHARE * arrived, _CHANCE * math.sqrt(arrived)):
        return None
    return QueueGrowth(start_s, end_s, arrived, min(rise, arrived))


def describe_overload(strategies: Sequence[str], growths: Sequence[QueueGrowth | None]) -> str | None:
    """Return a sentence on the runs whose queue grows; None where none does.

    Args:
        strategies: their names.
        growths: of each run, by :func:`find_queue_growth`.
    """
    grown = [(name, growth) for name, growth in zip(strategies, growths, strict=True) if growth is not None]
    if not grown:
        return None
    mildest = min((growth for _, growth in grown), key=lambda growth: growth.kept)
    under = "" if len(grown) == len(strategies) else f" under {', '.join(name for name, _ in grown)}"
    return (
        f"The engine is overloaded{under}: from {mildest.start_s:,.0f} to {mildest.end_s:,.0f} s "
        f"{mildest.arrival_rate_rps:.2f} requests a second arrive and {mildest.entry_rate_rps:.2f} leave the "
        f"queue, which grows by {mildest.kept:,}; latencies are mostly waiting and grow with the time that "
        "the load lasts."
    )


def describe_memory(summaries: Sequence[Summary]) -> list[str]:
    """Return sentences on what memory was short for; nothing where requests were preempted and no more."""
    sentences = []
    lost = [(s, share) for s in summaries if (share := LOST_PREFIX.read(s)) is not None]
    unfound = [(s, share) for s, share in lost if share >= THRASH_SHARE and not HIT_RATE.read(s)]
    thrashing = [(s, share) for s, share in lost if share >= THRASH_SHARE and HIT_RATE.read(s)]
    short = [(s, share) for s, share in lost if SOME_LOST_SHARE <= share < THRASH_SHARE]
    if unfound:
        parts = [f"{s['strategy']} {percent(share)}" for s, share in unfound]
        sentences.append(
            "The prefix cache thrashes, or prefix caching is off: no turn ever found its past there. "
            f"Of the computed tokens this share is past computed again: {', '.join(parts)}."
        )
    if thrashing:
        parts = [f"{s['strategy']} {percent(share)} (hit rate {_hit_rate(s)})" for s, share in thrashing]
        sentences.append(
            "The prefix cache thrashes: computed tokens whose prefix had been cached and was evicted are "
            f"{', '.join(parts)}. The contexts in use outgrow the memory."
        )
    if short:
        parts = [f"{s['strategy']} {percent(share)}" for s, share in short]
        sentences.append(
            "Cached prefixes were lost and computed again; their share of the computed tokens is "
            f"{', '.join(parts)}."
        )
    if not any(s["preemptions"] for s in summaries):
        if thrashing or short:
            what = "memory was short for prefixes, not for running requests"
        elif unfound:
            what = "running requests had memory enough"
        elif any(HIT_RATE.read(s) is not None and not s.get("sessions") for s in summaries):
            # A single request has no past of its own: what the cache lost is known of sessions alone.
            what = "memory was never short for running requests, so no choice of victim mattered"
        else:
            what = "memory was never short, so no choice of victim mattered"
        sentences.append(f"Nothing was preempted: {what}.")
    return sentences


def _hit_rate(summary: Summary) -> str:
    value = HIT_RATE.read(summary)
    return "unknown" if value is None else percent(value)
