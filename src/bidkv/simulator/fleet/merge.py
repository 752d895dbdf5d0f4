"""Merge the results of several replicas into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import merge
from typing import Any

from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint, TokenGaps


def merge_results(
    results: Sequence[RunResult],
    records: list[RequestRecord],
    *,
    busy_s: float,
    wall_s: float,
    timeline_points: int,
    notes: dict[str, Any],
) -> RunResult:
    """Return the fleet as one result: counters and memory are sums, times stay on the one clock.

    Args:
        results: of each replica.
        records: of all replicas.
        busy_s: seconds from the first arrival to the last finish of them all.
        wall_s: seconds that the whole simulation took to compute.
        timeline_points: most points to keep.
        notes: joined with the sums of the controllers' counters.
    """
    control: Counter[str] = Counter()
    for result in results:
        control.update(result.notes["control"])
    totals = [result.totals for result in results]
    return RunResult(
        strategy=results[0].strategy,
        records=records,
        totals=EngineTotals(
            steps=sum(t.steps for t in totals),
            scheduled_tokens=sum(t.scheduled_tokens for t in totals),
            recomputed_tokens=sum(t.recomputed_tokens for t in totals),
            preemptions=sum(t.preemptions for t in totals),
            used_block_seconds=sum(t.used_block_seconds for t in totals),
            usable_blocks=sum(t.usable_blocks for t in totals),
            busy_s=busy_s,
            prompt_tokens_seen=_add(t.prompt_tokens_seen for t in totals),
            prefix_hit_tokens=_add(t.prefix_hit_tokens for t in totals),
            lost_prefix_tokens=_add(t.lost_prefix_tokens for t in totals),
            token_gaps=_merge_gaps([t.token_gaps for t in totals]),
        ),
        simulated_s=max(result.simulated_s for result in results),
        wall_s=wall_s,
        timeline=_merge_timelines([result.timeline for result in results], timeline_points),
        notes={"control": dict(control), **notes},
    )


def _add(counts: Iterable[int | None]) -> int | None:
    """Return the sum, or None if a replica does not know its part."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _merge_gaps(parts: Sequence[TokenGaps | None]) -> TokenGaps | None:
    whole = TokenGaps()
    for gaps in parts:
        if gaps is None:
            return None
        whole.merge(gaps)
    return whole


def _merge_timelines(timelines: Sequence[Sequence[TimelinePoint]], limit: int) -> list[TimelinePoint]:
    """Return the sums over the replicas at each time when one of them changed, evenly thinned."""
    changes = merge(
        *([(point.time_s, index, point) for point in line] for index, line in enumerate(timelines)),
        key=lambda change: change[:2],
    )
    latest: dict[int, TimelinePoint] = {}
    stride = -(-sum(map(len, timelines)) // limit)
    points = []
    for number, (time_s, index, point) in enumerate(changes):
        latest[index] = point
        if number % stride == 0:
            states = latest.values()
            points.append(
                TimelinePoint(
                    time_s,
                    sum(p.used_blocks for p in states),
                    sum(p.running for p in states),
                    sum(p.waiting for p in states),
                    sum(p.preemptions for p in states),
                    sum(p.idle_session_blocks for p in states),
                )
            )
    return points
