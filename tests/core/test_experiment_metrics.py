import json
import math
from dataclasses import FrozenInstanceError

import pytest

from bidkv.experiments import ExperimentMetrics
from bidkv.results import EngineTotals, Outcome, RequestRecord, RunResult


def record(
    i: int, ttft_s: float | None, e2e_s: float | None, outcome: Outcome = Outcome.COMPLETED
) -> RequestRecord:
    return RequestRecord(
        request_id=f"r{i}",
        arrival_s=float(i),
        prompt_tokens=10,
        output_tokens=5,
        first_token_s=None if ttft_s is None else i + ttft_s,
        finish_s=None if e2e_s is None else i + e2e_s,
        outcome=outcome,
    )


def run(*records: RequestRecord, preemptions: int = 0) -> RunResult:
    return RunResult("bidkv", records, EngineTotals(preemptions=preemptions), 0.0, 0.0)


def test_positional_order_and_defaults() -> None:
    metrics = ExperimentMetrics(0.9, 120.0, 3.5, 0.8)
    assert metrics.to_dict() == {
        "slo_attainment_rate": 0.9,
        "p99_ttft_ms": 120.0,
        "throughput_rps": 3.5,
        "eviction_coverage": 0.8,
        "quality_rouge1": None,
        "quality_em": None,
        "adapter_metrics": {},
    }
    with pytest.raises(FrozenInstanceError):
        metrics.throughput_rps = 1.0  # type: ignore[misc]


def test_to_dict_is_a_copy_that_json_takes() -> None:
    metrics = ExperimentMetrics(1.0, 1.0, 1.0, 1.0, 0.5, 0.25, {"total_evictions": 3})
    out = metrics.to_dict()
    assert json.loads(json.dumps(out)) == out
    out["adapter_metrics"]["total_evictions"] = 9
    assert metrics.adapter_metrics == {"total_evictions": 3}


def test_from_run() -> None:
    result = run(
        record(0, 0.25, 2.0),
        record(1, 0.5, 2.0),
        record(2, 0.125, 9.0),
        record(3, None, None, Outcome.REJECTED),
        preemptions=8,
    )
    metrics = ExperimentMetrics.from_run(
        result, ttft_slo_s=0.3, e2e_slo_s=5.0, adapter_metrics={"total_evictions": 6}
    )
    assert metrics.slo_attainment_rate == 0.25
    assert metrics.p99_ttft_ms == 500.0
    assert metrics.throughput_rps == result.summary()["throughput_rps"] == 3 / 11
    assert metrics.eviction_coverage == 0.75
    assert metrics.adapter_metrics == {"total_evictions": 6}


def test_failures_miss_every_objective() -> None:
    failed = record(1, 0.1, 0.2, Outcome.FAILED)
    assert ExperimentMetrics.from_run(run(record(0, 0.1, 0.2), failed)).slo_attainment_rate == 0.5


def test_an_objective_is_met_exactly_at_its_limit() -> None:
    metrics = ExperimentMetrics.from_run(run(record(0, 0.5, 2.0)), ttft_slo_s=0.5, e2e_slo_s=2.0)
    assert metrics.slo_attainment_rate == 1.0


def test_nothing_completed() -> None:
    metrics = ExperimentMetrics.from_run(run(record(0, None, None, Outcome.FAILED)))
    assert (metrics.slo_attainment_rate, metrics.p99_ttft_ms, metrics.throughput_rps) == (0.0, None, 0.0)
    assert ExperimentMetrics.from_run(run()).slo_attainment_rate == 0.0


def test_coverage_is_a_share() -> None:
    one = record(0, 0.1, 0.2)
    assert ExperimentMetrics.from_run(run(one), adapter_metrics={"total_evictions": 3}).eviction_coverage == 0
    over = ExperimentMetrics.from_run(run(one, preemptions=2), adapter_metrics={"total_evictions": 3})
    assert over.eviction_coverage == 1.0


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["ttft_slo_s", "e2e_slo_s"])
def test_objectives_are_checked(name: str, limit: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be > 0"):
        ExperimentMetrics.from_run(run(), **{name: limit})
