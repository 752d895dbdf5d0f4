"""The headline figures of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bidkv.results import RequestRecord, RunResult, nearest_rank


@dataclass(frozen=True)
class ExperimentMetrics:
    """What an experiment reports of one run of one strategy.

    Attributes:
        slo_attainment_rate: share of all requests, in [0, 1], that completed within the objective; a
            request that failed or was rejected missed it.
        p99_ttft_ms: nearest-rank 99th percentile of the time to first token of completed requests,
            milliseconds; None when none completed.
        throughput_rps: completed requests over the time from first arrival to last finish.
        eviction_coverage: share of the run's preemptions, in [0, 1], whose victim the strategy chose (the
            engine's own rule chose the others); 0 when nothing was preempted.
        quality_rouge1: ROUGE-1 against undisturbed output, or None where not measured.
        quality_em: share of outputs equal to undisturbed ones, or None where not measured.
        adapter_metrics: the adapter's counters (:class:`bidkv.adapters.BaseAdapterMetrics`).
    """

    slo_attainment_rate: float
    p99_ttft_ms: float | None
    throughput_rps: float
    eviction_coverage: float
    quality_rouge1: float | None = None
    quality_em: float | None = None
    adapter_metrics: Mapping[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def from_run(
        cls,
        run: RunResult,
        *,
        ttft_slo_s: float = math.inf,
        e2e_slo_s: float = math.inf,
        adapter_metrics: Mapping[str, int] | None = None,
    ) -> ExperimentMetrics:
        """Derive the figures from a run's records.

        Args:
            run: the run.
            ttft_slo_s: most seconds to the first token; infinite sets no objective.
            e2e_slo_s: most seconds to the last token; infinite sets no objective.
            adapter_metrics: the adapter's counters; `total_evictions` are the victims the strategy chose.

        Raises:
            ValueError: an objective is not a positive number of seconds.
        """
        if not ttft_slo_s > 0.0:
            raise ValueError(f"ttft_slo_s must be > 0, got {ttft_slo_s}")
        if not e2e_slo_s > 0.0:
            raise ValueError(f"e2e_slo_s must be > 0, got {e2e_slo_s}")
        counters = dict(adapter_metrics or {})
        done = run.completed
        attained = sum(1 for record in done if _attains(record, ttft_slo_s, e2e_slo_s))
        ttfts_s = sorted(record.ttft_s for record in done if record.ttft_s is not None)
        preemptions = run.totals.preemptions
        return cls(
            slo_attainment_rate=attained / len(run.records) if run.records else 0.0,
            p99_ttft_ms=nearest_rank(ttfts_s, 99) * 1000.0 if ttfts_s else None,
            throughput_rps=run.summary()["throughput_rps"],
            eviction_coverage=min(1.0, counters.get("total_evictions", 0) / preemptions)
            if preemptions
            else 0.0,
            adapter_metrics=counters,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every figure under its name, ready for JSON."""
        return {
            "slo_attainment_rate": self.slo_attainment_rate,
            "p99_ttft_ms": self.p99_ttft_ms,
            "throughput_rps": self.throughput_rps,
            "eviction_coverage": self.eviction_coverage,
            "quality_rouge1": self.quality_rouge1,
            "quality_em": self.quality_em,
            "adapter_metrics": dict(self.adapter_metrics),
        }


def _attains(record: RequestRecord, ttft_slo_s: float, e2e_slo_s: float) -> bool:
    # An unknown latency never attains an objective, not even an infinite one: the record is broken.
    return (
        record.ttft_s is not None
        and record.e2e_s is not None
        and record.ttft_s <= ttft_slo_s
        and record.e2e_s <= e2e_slo_s
    )
