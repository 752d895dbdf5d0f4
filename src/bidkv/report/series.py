"""From full results to what a plot can carry: rows of plain values, thinned so that the page stays small.

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
"""Points of one timeline: means over that many equal parts of the longest run."""

Row = dict[str, Any]


def latency_rows(results: Sequence[RunResult], steps: int = CDF_STEPS) -> list[Row]:
    """Return the latency curves: one row a strategy, metric (`TTFT`, `end to end`) and percentile."""
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
    """Return KV use (share of usable blocks), preemptions so far and queue: a row a strategy and part.

    Every strategy has the same grid of times, that of the longest run; shorter runs have fewer rows.
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
            used = _mean_used(points, times, begin, min(end, result.simulated_s))
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


def tax_rows(results: Sequence[RunResult]) -> list[Row]:
    """Return what was computed twice: one row a strategy."""
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


def _mean_used(points: Sequence[TimelinePoint], times: Sequence[float], begin: float, end: float) -> float:
    """Time average of the used blocks over [begin, end]; a point holds from its time to the next one's."""
    index = max(bisect_right(times, begin) - 1, 0)
    held = 0.0
    at = begin
    while at < end:
        until = min(times[index + 1], end) if index + 1 < len(times) else end
        held += points[index].used_blocks * (until - at)
        at = until
        index += 1
    return held / (end - begin)


def short(value: float) -> float:
    """Keep five significant digits: more would only make the page larger."""
    return float(f"{value:.5g}")
