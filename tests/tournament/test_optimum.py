"""The exact optimum of small cases: nothing beats it, and where it is known it is found."""

from __future__ import annotations

import pytest

from bidkv.policy import resolve
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.tournament.optimum import COMPARED, find_optimum, small_cases

PROFILE = load_profile(DEFAULT_PROFILE)
ENGINE = EngineConfig(num_gpu_blocks=300, max_num_seqs=8, max_num_batched_tokens=2048)


def mean_s(requests: list[WorkloadRequest], policy: str, engine: EngineConfig = ENGINE) -> float:
    done = simulate(requests, resolve(policy), engine, PROFILE).completed
    return sum(record.e2e_s or 0.0 for record in done) / len(done)


@pytest.mark.parametrize("requests", list(small_cases(3, 3)))
def test_no_policy_beats_it_and_keeping_the_order_cannot_help(requests: list[WorkloadRequest]) -> None:
    best = find_optimum(requests, ENGINE, PROFILE)
    ordered = find_optimum(requests, ENGINE, PROFILE, keeps_order=True)
    assert best is not None
    assert ordered is not None
    assert best.runs > ordered.runs > 1
    assert best.mean_e2e_s <= ordered.mean_e2e_s
    assert min(mean_s(requests, policy) for policy in COMPARED) >= best.mean_e2e_s - 1e-9


def test_one_at_a_time_the_shortest_first_is_the_optimum() -> None:
    requests = [WorkloadRequest(f"r{i}", 0.0, 100, output) for i, output in enumerate((300, 50, 150))]
    engine = EngineConfig(num_gpu_blocks=300, max_num_seqs=1, max_num_batched_tokens=2048)
    best = find_optimum(requests, engine, PROFILE)
    ordered = find_optimum(requests, engine, PROFILE, keeps_order=True)
    assert best is not None
    assert ordered is not None
    shortest_first = sorted(requests, key=lambda request: request.output_tokens)
    assert best.mean_e2e_s == pytest.approx(mean_s(shortest_first, "preempt-evict", engine))
    assert ordered.mean_e2e_s == pytest.approx(mean_s(requests, "preempt-evict", engine))


def test_too_many_sequences_are_not_tried() -> None:
    (requests,) = small_cases(1, 4)
    assert find_optimum(requests, ENGINE, PROFILE, most_runs=5) is None
