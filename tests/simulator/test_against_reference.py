"""The engine's own decisions, compared one by one with the rules written a second time, naively."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from tests.simulator.driver import CheckedRun
from tests.simulator.reference import schedule_naively
from tests.simulator.test_invariants import engines
from tests.support import requests_of, workloads

from bidkv.policy import resolve
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig


@given(requests=workloads(), config=engines())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_decision_equals_the_naive_scheduler(
    requests: list[WorkloadRequest], config: EngineConfig
) -> None:
    expected = schedule_naively(requests, config)
    books = CheckedRun(requests, resolve("preempt-evict"), config).run()
    assert books.steps == [step.scheduled for step in expected]
    assert books.preempted == [step.preempted for step in expected]
    assert books.finished == [name for step in expected for name in step.finished]


def test_a_longer_run_under_pressure_equals_the_naive_scheduler() -> None:
    lengths = [(17 * i % 97 + 1, 29 * i % 61 + 1) for i in range(120)]
    requests = requests_of(*lengths, arrivals=[i * 2.5 for i in range(120)])
    config = EngineConfig(num_gpu_blocks=41, block_size=4, max_num_seqs=16, max_num_batched_tokens=48)
    expected = schedule_naively(requests, config)
    books = CheckedRun(requests, resolve("preempt-evict"), config).run()
    assert books.steps == [step.scheduled for step in expected]
    assert books.preempted == [step.preempted for step in expected]
    assert books.preemptions > 50  # or the comparison says nothing about preemption
