"""Scheduling one step ahead: what a step cannot know yet, worked out by hand, and books that must balance.

That the real scheduler decides the same, step by step, is shown in tests/vllm/test_async_equivalence.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from tests.simulator.test_invariants import engines, expected_outputs
from tests.support import requests_of, steady_profile, workloads

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.protocol import Session, SessionArrivals, Turn
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine, simulate, simulate_sessions
from bidkv.simulator.run import Backend

ENGINE = EngineConfig(
    num_gpu_blocks=5, block_size=4, max_num_seqs=4, max_num_batched_tokens=64, async_scheduling=True
)

Log = list[tuple[float, list[tuple[str, int]], list[str], list[str]]]
"""Of every step: its end, the requests scheduled and preempted in it, and those complete at its end."""


def engine_with(requests: list[WorkloadRequest], config: EngineConfig = ENGINE) -> VllmStepEngine:
    engine = VllmStepEngine(
        config, steady_profile(), Controller(resolve("preempt-evict"), time_budget_s=None)
    )
    for request in requests:
        engine.submit(SimRequest(request, config.model_len))
    return engine


def log_of(requests: list[WorkloadRequest], config: EngineConfig = ENGINE) -> Log:
    engine = engine_with(requests, config)
    log: Log = []
    while not engine.idle:
        engine.step()
        scheduled = [(request.request_id, tokens) for request, tokens in engine.scheduled]
        preempted = [request.request_id for request in engine.preempted]
        log.append((engine.now_s, scheduled, preempted, [r.request_id for r in engine.finished]))
    assert engine.free_blocks == config.usable_blocks
    return log


def test_two_steps_are_scheduled_before_the_first_token_and_none_beyond_the_cap() -> None:
    (request,) = requests_of((5, 3))
    assert log_of([replace(request, max_tokens=3)]) == [
        (0.0, [("r0", 5)], [], []),  # nothing is in flight, so there is nothing to wait for
        (1.0, [("r0", 1)], [], []),  # its input is a token that has not come out yet
        (2.0, [("r0", 1)], [], []),
        (3.0, [], [], ["r0"]),  # the third token is on its way and the cap is reached with it
    ]


def test_an_end_before_the_cap_is_seen_one_step_too_late() -> None:
    (request,) = requests_of((5, 3))
    assert log_of([replace(request, max_tokens=9)]) == [
        (0.0, [("r0", 5)], [], []),
        (1.0, [("r0", 1)], [], []),
        (2.0, [("r0", 1)], [], []),
        (3.0, [("r0", 1)], [], ["r0"]),  # scheduled before the last token was known: computed for nothing
        (4.0, [], [], []),  # and the engine is busy with it
    ]


def test_blocks_and_place_are_kept_until_the_last_token_arrives() -> None:
    first, second = (replace(r, max_tokens=r.output_tokens) for r in requests_of((4, 1), (4, 2)))
    assert log_of([first, second], replace(ENGINE, max_num_seqs=1)) == [
        (0.0, [("r0", 4)], [], []),
        (1.0, [], [], ["r0"]),  # r0 needs no step any more, but the only place is still its own
        (2.0, [("r1", 4)], [], []),
        (3.0, [("r1", 1)], [], []),
        (4.0, [], [], ["r1"]),
    ]


def test_a_token_in_flight_arrives_although_its_request_was_preempted() -> None:
    first, second = (replace(r, max_tokens=r.output_tokens) for r in requests_of((4, 6), (4, 5)))
    log = log_of([first, second])
    assert log[5] == (5.0, [("r0", 1)], ["r1"], ["r1"])  # its fifth token was on its way: it is complete
    assert [entry[3] for entry in log[6:]] == [["r0"]]


def test_what_is_in_flight_for_an_aborted_request_is_dropped() -> None:
    engine = engine_with(requests_of((4, 6), (4, 6)))
    engine.step()
    engine.step()
    gone, stays = engine.running
    engine.abort(gone)
    engine.step()
    assert (gone.num_output_tokens, stays.num_output_tokens) == (1, 2)


@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_an_engine_that_clients_leave_idle_waits_for_nothing(backend: Backend) -> None:
    if backend == "compiled":
        pytest.importorskip("numba")
    turn = Turn(4, 1, max_tokens=1)
    sessions = [Session(f"s{number}", (turn,), start_s=start) for number, start in enumerate((0.0, 0.0, 9.0))]
    run = simulate_sessions(
        sessions,
        SessionArrivals.at_own_times(),
        resolve("preempt-evict"),
        replace(ENGINE, max_num_seqs=1),
        steady_profile(),
        patience_s=1.0,
        backend=backend,
    )
    # s1 is given up while the step that held no place for it is at work; nothing of that is left at 9 s.
    assert [record.finish_s for record in run.records] == [1.0, None, 10.0]


def test_an_arrival_waits_for_the_step_after_the_next() -> None:
    config = replace(ENGINE, num_gpu_blocks=40)
    requests = requests_of((4, 9), (4, 1), arrivals=[0.0, 2.5])
    runs = [
        simulate(
            requests, resolve("preempt-evict"), replace(config, async_scheduling=ahead), steady_profile()
        )
        for ahead in (False, True)
    ]
    # Seen at 3 s; the step that is then at work and has been scheduled takes until 4 s.
    assert [run.records[0].first_token_s for run in runs] == [4.0, 5.0]


@given(requests=workloads(), config=engines())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_books_balance(requests: list[WorkloadRequest], config: EngineConfig) -> None:
    config = replace(config, async_scheduling=True)
    run = simulate(requests, resolve("lcf"), config, steady_profile())
    expected = expected_outputs(requests, config)
    assert {r.request_id: r.output_tokens for r in run.completed} == expected
    prompts = {r.request_id: r.prompt_tokens for r in requests}
    caps = {r.request_id: r.max_tokens or config.model_len for r in requests}
    useful = sum(prompts[name] + output - 1 for name, output in expected.items())
    early = sum(
        output < min(caps[name], config.model_len - prompts[name]) for name, output in expected.items()
    )
    wasted = run.totals.scheduled_tokens - run.totals.recomputed_tokens - useful
    assert 0 <= wasted <= early  # one token at most for each end that its cap did not tell


def test_the_compiled_backend_lags_by_a_step_too() -> None:
    pytest.importorskip("numba")
    for backend in ("python", "compiled"):
        run = simulate(requests_of((5, 3)), resolve("lcf"), ENGINE, steady_profile(), backend=backend)
        assert run.records[0].finish_s == 3.0
