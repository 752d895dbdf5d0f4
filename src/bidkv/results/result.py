"""One result type for the simulator and for real engines, and the figures derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bidkv.results.percentiles import nearest_rank
from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.sessions import summarize_sessions


@dataclass(frozen=True, slots=True)
class Latency:
    """Mean and nearest-rank percentiles of one latency, in seconds; None when nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def summarize(cls, values: Iterable[float | None]) -> Latency:
        """Summarise the values that exist."""
        ordered = sorted(v for v in values if v is not None)
        if not ordered:
            return cls(None, None, None, None)
        mean = sum(ordered) / len(ordered)
        return cls(mean, nearest_rank(ordered, 50), nearest_rank(ordered, 90), nearest_rank(ordered, 99))

    def as_dict(self) -> dict[str, float | None]:
        """Return the four figures under their public names."""
        return {"mean": self.mean, "p50": self.p50, "p90": self.p90, "p99": self.p99}


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run of one strategy on one workload, on any engine.

    `wall_s` is the time the run took to compute or to drive; `simulated_s` the time that passed on the
    engine's own clock (equal to `wall_s` on a real engine). A run that was cut has the time of the cut in
    `notes["cut_s"]`.
    """

    strategy: str
    records: Sequence[RequestRecord]
    totals: EngineTotals
    simulated_s: float
    wall_s: float
    timeline: Sequence[TimelinePoint] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def completed(self) -> list[RequestRecord]:
        """The records of completed requests."""
        return [r for r in self.records if r.outcome is Outcome.COMPLETED]

    @property
    def arrival_sample(self) -> tuple[list[float], int]:
        """Arrivals in ascending order, and how many requests each of them stands for."""
        return sorted(record.arrival_s for record in self.records), 1

    @property
    def span_s(self) -> float:
        """Last finish minus first arrival of what completed; 0 when nothing did."""
        done = self.completed
        if not done:
            return 0.0
        return max(r.finish_s or 0.0 for r in done) - min(r.arrival_s for r in self.records)

    @property
    def window_s(self) -> float:
        """Seconds that the run lasted: from the first arrival to the cut, or to the last finish."""
        cut_s = self.notes.get("cut_s")
        if cut_s is None or not self.records:
            return self.span_s
        return float(cut_s) - min(record.arrival_s for record in self.records)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run under the public JSON names of `bidkv simulate`."""
        done = self.completed
        span = self.span_s
        totals = self.totals
        # A client of a real server sees tokens, not preemptions; the engine reports only their total.
        each_known = self.notes.get("per_request_preemptions", True)
        gaps = totals.token_gaps
        sessions = summarize_sessions(self.records, totals, self.window_s)
        return {
            "strategy": self.strategy,
            "requests": len(self.records),
            "completed": len(done),
            "throughput_rps": len(done) / span if span > 0 else 0.0,
            "output_tokens_per_s": sum(r.output_tokens for r in done) / span if span > 0 else 0.0,
            "ttft_s": Latency.summarize(r.ttft_s for r in done).as_dict(),
            "e2e_s": Latency.summarize(r.e2e_s for r in done).as_dict(),
            "tpot_s": Latency.summarize(r.tpot_s for r in done).as_dict(),
            "preemptions": totals.preemptions,
            "preempted_requests": sum(1 for r in self.records if r.preemptions) if each_known else None,
            "max_preemptions_of_one_request": (
                max((r.preemptions for r in self.records), default=0) if each_known else None
            ),
            "scheduled_tokens": totals.scheduled_tokens,
            "recomputed_tokens": totals.recomputed_tokens,
            "recompute_tax": totals.recomputed_tokens / totals.scheduled_tokens
            if totals.scheduled_tokens
            else 0.0,
            "kv_utilization_mean": (
                totals.used_block_seconds / (totals.usable_blocks * totals.busy_s)
                if totals.usable_blocks and totals.busy_s > 0
                else 0.0
            ),
            "prefix_hit_rate": totals.prefix_hit_rate,
            # An engine knows which prompts have a common past only where they are turns of sessions.
            "lost_prefix_tokens": totals.lost_prefix_tokens if sessions else None,
            "lost_prefix_share": totals.lost_prefix_share if sessions else None,
            "itl_s": {
                "p50": None if gaps is None else gaps.percentile(50),
                "p99": None if gaps is None else gaps.percentile(99),
            },
            "longest_gap_s": None if gaps is None or not gaps.longest_s else gaps.longest_s,
            "sessions": sessions,
            "steps": totals.steps,
            "simulated_s": self.simulated_s,
            "wall_s": self.wall_s,
        }
