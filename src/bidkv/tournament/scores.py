"""The figures of one run that a tournament compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bidkv.results import RunResult, nearest_rank

TTFT_SLO_S = 2.0
"""A request attains the objective when its first token comes within this time."""


class Judged(Protocol):
    """A score of either kind of tournament."""

    @property
    def failures(self) -> int:
        """1 when the policy failed and the engine's own order took over, else 0."""


def count_broken(scores: Mapping[Any, Mapping[str, Judged]]) -> dict[str, int]:
    """Return the runs in which a policy failed and the engine's own order took over, by policy."""
    failed = (policy for cell in scores.values() for policy, score in cell.items() if score.failures)
    return dict(Counter(failed))


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of one policy on one workload.

    Attributes:
        mean_e2e_s: mean end-to-end latency of completed requests.
        p99_e2e_s: its 99th percentile (nearest rank).
        mean_ttft_s: mean time to first token.
        p99_ttft_s: its 99th percentile.
        longest_wait_s: longest time to first token.
        throughput_rps: completed requests over the time from first arrival to last finish.
        recompute_tax: share of the computed tokens that had been computed before.
        slo_attainment: share of all requests with a first token within 2 s.
        max_preemptions: preemptions of the request that was preempted most often.
        preemptions: of all requests.
        failures: 1 when the policy failed and the engine's own order took over, else 0.
    """

    mean_e2e_s: float
    p99_e2e_s: float
    mean_ttft_s: float
    p99_ttft_s: float
    longest_wait_s: float
    throughput_rps: float
    recompute_tax: float
    slo_attainment: float
    max_preemptions: int
    preemptions: int
    failures: int

    @classmethod
    def from_run(cls, run: RunResult) -> Score:
        """Derive the figures from a run in which at least one request completed."""
        done = run.completed
        e2e_s = sorted(record.e2e_s or 0.0 for record in done)
        ttft_s = sorted(record.ttft_s or 0.0 for record in done)
        totals = run.totals
        return cls(
            mean_e2e_s=sum(e2e_s) / len(e2e_s),
            p99_e2e_s=nearest_rank(e2e_s, 99),
            mean_ttft_s=sum(ttft_s) / len(ttft_s),
            p99_ttft_s=nearest_rank(ttft_s, 99),
            longest_wait_s=ttft_s[-1],
            throughput_rps=len(done) / run.span_s,
            recompute_tax=totals.recomputed_tokens / totals.scheduled_tokens,
            slo_attainment=sum(wait_s <= TTFT_SLO_S for wait_s in ttft_s) / len(run.records),
            max_preemptions=max(record.preemptions for record in run.records),
            preemptions=totals.preemptions,
            failures=int(run.notes["control"]["failures"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return every figure under its name, ready for JSON."""
        return asdict(self)
