"""A policy can look at what a simulated engine shows it, and change none of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.faulty_policies import Writes, members

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.protocol.session_views import SessionTable, SessionView
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SglangConfig, simulate, simulate_sessions

PROFILE = load_profile("h100-llama3.1-8b")
REQUESTS = [WorkloadRequest(f"r{number}", 0.0, 100, 200) for number in range(12)]
SESSIONS = [Session(f"s{number}", (Turn(100, 200), Turn(50, 100, gap_s=1.0))) for number in range(12)]
VLLM = EngineConfig(num_gpu_blocks=60, max_num_seqs=12)
SGLANG = SglangConfig(max_total_tokens=960, page_size=16)
CACHING = EngineConfig(num_gpu_blocks=100, max_num_seqs=12, enable_prefix_caching=True)


def _run(workload: Any, policy: Policy, config: Any, backend: Any) -> RunResult:
    if workload is SESSIONS:
        return simulate_sessions(
            workload, SessionArrivals.at_once(), policy, config, PROFILE, backend=backend
        )
    return simulate(workload, policy, config, PROFILE, backend=backend)


@pytest.mark.parametrize(
    ("config", "backend", "workload", "protocols"),
    [
        (VLLM, "python", REQUESTS, (EngineView, RequestView)),
        (VLLM, "compiled", REQUESTS, (EngineView, RequestView)),
        (SGLANG, "python", REQUESTS, (EngineView, RequestView)),
        (CACHING, "python", SESSIONS, (EngineView, RequestView, SessionTable, SessionView)),
        (CACHING, "compiled", SESSIONS, (EngineView, RequestView, SessionTable, SessionView)),
    ],
)
def test_nothing_can_be_written(
    config: Any, backend: Any, workload: Any, protocols: tuple[type[Any], ...]
) -> None:
    policy = Writes()
    run = _run(workload, policy, config, backend)
    assert policy.tried == {f"{each.__name__}.{name}" for each in protocols for name in members(each)}
    assert policy.written == set()
    own = _run(workload, resolve("preempt-evict"), config, backend)
    assert run.totals.preemptions > 0 or isinstance(config, SglangConfig)
    assert run.records == own.records
    assert run.notes["control"]["failures"] == 0


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("python", "property 'free_blocks' of 'VllmStepEngine' object has no setter"),
        ("compiled", "must not write to what it is shown: free_blocks of a KernelView"),
    ],
)
def test_a_policy_that_writes_is_switched_off_with_the_reason(
    backend: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Cheats(Policy):
        def on_arrival(self, request: Any, engine: Any) -> None:
            engine.free_blocks = 10**6

    run = simulate(REQUESTS, Cheats(), VLLM, PROFILE, backend=backend)
    assert run.notes["control"]["failures"] == 1
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["num_computed_tokens", "request_id", "of_its_own"])
@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_a_request_takes_no_attribute_and_loses_none(backend: Any, name: str) -> None:
    refusals: list[str] = []

    class Cheats(Policy):
        def on_arrival(self, request: Any, engine: EngineView) -> None:
            try:
                setattr(request, name, 10**6)
            except AttributeError as error:
                refusals.append(str(error))
            delattr(request, "request_id")

    run = simulate(REQUESTS, Cheats(), VLLM, PROFILE, backend=backend)
    assert run.notes["control"]["failures"] == 1, "what deletes is switched off at the first request"
    assert len(refusals) == 1
    assert name in refusals[0]
