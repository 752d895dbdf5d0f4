"""Operators and broken policies interfere in the middle of a run; no request and no block is lost."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reliability.policies import Unreliable
from tests.simulator.driver import CheckedRun
from tests.simulator.test_invariants import engines, expected_outputs
from tests.support import requests_of, workloads

from bidkv.policy import available, resolve
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig


@given(
    requests=workloads(),
    config=engines(),
    seed=st.integers(0, 1000),
    interventions=st.dictionaries(
        st.integers(0, 60), st.sampled_from(["disable", "enable", "unreliable", *available()]), max_size=8
    ),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_completes_whoever_decides_when(
    requests: list[WorkloadRequest], config: EngineConfig, seed: int, interventions: dict[int, str]
) -> None:
    run = CheckedRun(requests, Unreliable(seed, 0.05), config)
    control = run.control
    disabled = 0
    while run.coming or not run.engine.idle:
        match interventions.get(len(run.books.steps)):
            case None:
                pass
            case "disable":
                disabled += not control.killed
                control.disable()
            case "enable":
                control.enable()
            case "unreliable":
                control.switch(Unreliable(seed + 1, 0.05))
            case name:
                control.switch(resolve(name))
        run.step()
        assert len(run.books.steps) < 20_000
    assert run.books.outputs == expected_outputs(requests, config)
    counters = control.counters
    assert counters.kill_switch_activations == disabled
    assert counters.failures == sum(control.breaker.failures.values())
    assert counters.preemptions_by_policy + counters.preemptions_by_engine == run.books.preemptions
    assert counters.recomputed_tokens == run.books.recomputed_tokens
    assert counters.arrivals == counters.completions == len(run.books.finished)


def test_a_policy_that_never_fails_is_told_the_truth_through_kills_and_switches() -> None:
    requests = requests_of(
        *[(5 + i % 7, 4 + i % 11) for i in range(90)], arrivals=[i * 0.7 for i in range(90)]
    )
    config = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)
    run = CheckedRun(requests, Unreliable(1, 0.0), config)
    while run.coming or not run.engine.idle:
        step = len(run.books.steps)
        if step % 13 == 5:
            run.control.disable()
        elif step % 13 == 8:
            run.control.enable()
        elif step % 29 == 0:
            run.control.switch(Unreliable(step, 0.0))
        run.step()
    # A single assertion of its own books that failed would have switched it off.
    assert run.control.counters.failures == 0
    assert run.control.counters.preemptions_by_policy > 10
    assert len(run.books.finished) == 90


def test_with_the_kill_switch_on_the_run_is_the_plain_engines() -> None:
    requests = requests_of(*[(5 + i % 7, 4 + i % 11) for i in range(40)])
    config = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)
    plain = CheckedRun(requests, resolve("preempt-evict"), config).run()
    killed = CheckedRun(requests, Unreliable(1, 0.0), config)
    killed.control.disable()
    assert killed.run().steps == plain.steps
    failed = CheckedRun(requests, Unreliable(1, 1.0), config)
    assert failed.run().steps == plain.steps
    assert failed.control.counters.failures == 1
