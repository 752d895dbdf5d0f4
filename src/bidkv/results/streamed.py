"""A result of a run of any length: figures counted while requests leave, and no record kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bidkv.results.gaps import TokenGaps
from bidkv.results.records import Outcome, RequestRecord
from bidkv.results.result import RunResult

_MOST_SAMPLED_ARRIVALS = 65_536
"""Arrivals kept to tell where a queue grew; beyond that every second one is dropped, again and again."""


class LatencyTally:
    """Mean and percentiles of one latency; percentiles are at most 0.8 % off."""

    def __init__(self) -> None:
        self._count = 0
        self._total_s = 0.0
        self._times = TokenGaps()

    def add(self, seconds: float | None) -> None:
        """Count a latency, if there is one."""
        if seconds is not None:
            self._count += 1
            self._total_s += seconds
            self._times.add(seconds)

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures under their public names."""
        percentiles = {f"p{percent}": self._times.percentile(percent) for percent in (50, 90, 99)}
        return {"mean": self._total_s / self._count if self._count else None, **percentiles}


class RecordTally:
    """Takes each record as its request leaves, and keeps what the figures of a run need of it."""

    def __init__(self) -> None:
        self.requests = 0
        self.completed = 0
        self.output_tokens = 0
        self.preempted = 0
        self.most_preemptions = 0
        self.first_arrival_s: float | None = None
        self.last_finish_s = 0.0
        self.ttft_s = LatencyTally()
        self.e2e_s = LatencyTally()
        self.tpot_s = LatencyTally()
        self.arrivals_s: list[float] = []
        self.arrivals_weight = 1

    def add(self, record: RequestRecord) -> None:
        """Count a record."""
        if self.first_arrival_s is None or record.arrival_s < self.first_arrival_s:
            self.first_arrival_s = record.arrival_s
        if self.requests % self.arrivals_weight == 0:
            self.arrivals_s.append(record.arrival_s)
            if len(self.arrivals_s) > _MOST_SAMPLED_ARRIVALS:
                del self.arrivals_s[1::2]
                self.arrivals_weight *= 2
        self.requests += 1
        if record.preemptions:
            self.preempted += 1
            self.most_preemptions = max(self.most_preemptions, record.preemptions)
        if record.outcome is not Outcome.COMPLETED:
            return
        self.completed += 1
        self.output_tokens += record.output_tokens
        self.last_finish_s = max(self.last_finish_s, record.finish_s or 0.0)
        self.ttft_s.add(record.ttft_s)
        self.e2e_s.add(record.e2e_s)
        self.tpot_s.add(record.tpot_s)

    @property
    def span_s(self) -> float:
        """Last finish minus first arrival of what completed; 0 when nothing did."""
        if not self.completed or self.first_arrival_s is None:
            return 0.0
        return self.last_finish_s - self.first_arrival_s


@dataclass(frozen=True, slots=True)
class StreamedResult(RunResult):
    """A result whose records were counted and not kept; its `records` are empty.

    Attributes:
        tally: what the records said.
    """

    tally: RecordTally = field(default_factory=RecordTally)

    @property
    def arrival_sample(self) -> tuple[list[float], int]:
        """Some arrivals in ascending order, and how many requests each of them stands for."""
        return sorted(self.tally.arrivals_s), self.tally.arrivals_weight

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run under their public JSON names; percentiles are at most 0.8 % off."""
        tally, span_s = self.tally, self.tally.span_s
        return RunResult.summary(self) | {
            "requests": tally.requests,
            "completed": tally.completed,
            "throughput_rps": tally.completed / span_s if span_s > 0 else 0.0,
            "output_tokens_per_s": tally.output_tokens / span_s if span_s > 0 else 0.0,
            "ttft_s": tally.ttft_s.as_dict(),
            "e2e_s": tally.e2e_s.as_dict(),
            "tpot_s": tally.tpot_s.as_dict(),
            "preempted_requests": tally.preempted,
            "max_preemptions_of_one_request": tally.most_preemptions,
        }
