"""Rows of plain values for the plots, from full results, thinned so that the page stays small.

The thinning is stated on the page: :data:`CDF_STEPS` and :data:`TIME_STEPS` are printed there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from bidkv.results import RunResult, TimelinePoint, nearest_rank

CDF_STEPS = 200
"""Points of one latency curve: the nearest-rank percentiles 0.5, 1, 1.5, ... 100."""

TIME_STEPS = 160
"""Points of one timeline: means over as many equal parts of the longest run."""

Row = dict[str, Any]


def latency_rows(results: Sequence[RunResult], steps: int = CDF_STEPS) -> list[Row]:
    """Return the latency curves: one row per strategy, metric (`TTFT`, `end to end`) and percentile."""
    rows = []
    for result in results:
        done = result.completed
        for metric, values in (("TTFT", [r.ttft_s for r in done]), ("end to end", [r.e2e_s for r in done])):
            ordered = sorted(v for v in values if v is not None)
            if not ordered:
                continue
            for step in range(1, steps + 1):
                percent = 100.0 * step / steps
                value = short(nearest_rank(ordered, percent))
                rows.append(
                    {"strategy": result.strategy, "metric": metric, "percent": percent, "seconds": value}
                )
    return rows


def timeline_rows(results: Sequence[RunResult], steps: int = TIME_STEPS) -> list[Row]:
    """Return KV use (share of usable blocks), preemptions so far and queue: a row per strategy and part.

    Every strategy has the same grid of times, that of the longest run. Shorter runs have fewer rows.
    """
    end_s = max((result.simulated_s for result in results), default=0.0)
    if end_s <= 0.0:
        return []
    edges = [end_s * step / steps for step in range(steps + 1)]
    rows = []
    for result in results:
        points = result.timeline
        if not points or not result.totals.usable_blocks:
            continue
        times = [p.time_s for p in points]
        for begin, end in pairwise(edges):
            if begin >= result.simulated_s:
                break
            used = _mean(points, times, begin, min(end, result.simulated_s), "used_blocks")
            last = points[max(bisect_right(times, end) - 1, 0)]
            rows.append(
                {
                    "strategy": result.strategy,
                    "time_s": short(end),
                    "kv_use": short(used / result.totals.usable_blocks),
                    "preemptions": last.preemptions,
                    "waiting": last.waiting,
                }
            )
    return rows


def memory_rows(results: Sequence[RunResult], steps: int = TIME_STEPS) -> list[Row]:
    """Return the parts of the KV cache over time: a row per strategy, part of the run and part of the cache.

    Empty where no run had idle sessions. `share` is a share of the usable blocks; `order` stacks the parts
    from the bottom: running requests, idle sessions, free.
    """
    if not any(point.idle_session_blocks for result in results for point in result.timeline):
        return []
    rows = []
    for result in results:
        usable = result.totals.usable_blocks
        for end, used, idle in _mean_blocks(result, result.simulated_s, steps):
            shares = (
                ("running requests", used / usable),
                ("idle sessions", idle / usable),
                ("free", max(1.0 - (used + idle) / usable, 0.0)),
            )
            rows += [
                {
                    "strategy": result.strategy,
                    "time_s": short(end),
                    "part": part,
                    "share": short(share),
                    "order": order,
                }
                for order, (part, share) in enumerate(shares)
            ]
    return rows


def _mean_blocks(result: RunResult, end_s: float, steps: int) -> list[tuple[float, float, float]]:
    """Return the end of each of `steps` equal parts of a run, and its mean used and idle blocks."""
    points = result.timeline
    if not points or not result.totals.usable_blocks or end_s <= 0.0:
        return []
    times = [point.time_s for point in points]
    found = []
    for begin, end in pairwise([end_s * step / steps for step in range(steps + 1)]):
        used = _mean(points, times, begin, end, "used_blocks")
        found.append((end, used, _mean(points, times, begin, end, "idle_session_blocks")))
    return found


def tax_rows(results: Sequence[RunResult]) -> list[Row]:
    """Return the recompute tax: one row per strategy."""
    return [
        {
            "strategy": result.strategy,
            "recompute_tax": totals.recomputed_tokens / totals.scheduled_tokens
            if totals.scheduled_tokens
            else 0.0,
            "recomputed_tokens": totals.recomputed_tokens,
            "scheduled_tokens": totals.scheduled_tokens,
            "preemptions": totals.preemptions,
        }
        for result in results
        for totals in (result.totals,)
    ]


def _mean(
    points: Sequence[TimelinePoint], times: Sequence[float], begin: float, end: float, field: str
) -> float:
    """Return the time average of a field over [begin, end]; a point holds from its time to the next one's."""
    index = max(bisect_right(times, begin) - 1, 0)
    held = 0.0
    at = begin
    while at < end:
        until = min(times[index + 1], end) if index + 1 < len(times) else end
        held += getattr(points[index], field) * (until - at)
        at = until
        index += 1
    return held / (end - begin)


def short(value: float) -> float:
    """Keep five significant digits, since more would only make the page larger."""
    return float(f"{value:.5g}")
