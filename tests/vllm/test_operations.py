"""What an operator does to a running engine, and engines of odd shapes, while a policy is in charge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.harness import AsyncScheduler, Scheduler
from tests.vllm.ours import run_ours
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from bidkv.protocol.requests import WorkloadRequest

POLICIES = ("fair", "fast")
CASE = random_case(3, prefix_caching=True)


def serve(
    case: Case, policy: str, base: type[Scheduler], operate: Callable[[Any, int], None] | None = None
) -> tuple[Any, list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Serve a case, calling `operate` before every step; returns the scheduler, victims and preempted."""
    named: dict[int, tuple[str, ...]] = {}

    def watch(scheduler: Any) -> None:
        def write(victims: Any) -> None:
            named[scheduler.current_step] = tuple(victim.request_id for victim in victims)

        scheduler.bidkv.glue.on_victims = write

    steps, scheduler = run_ours(case, policy, base, prepare=watch, before_step=operate)
    glue = scheduler.bidkv.glue
    assert glue.attached
    assert scheduler.bidkv.controller.active
    assert scheduler.bidkv.controller.counters.failures == 0
    assert not scheduler.requests
    assert len(scheduler.running) == len(scheduler.waiting) == 0
    return (
        scheduler,
        [named.get(number, ()) for number in range(len(steps))],
        [step.preempted for step in steps],
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_a_reset_of_the_prefix_cache_takes_every_running_request_back(policy, base):
    """As before new weights are loaded, and before the engine sleeps."""
    taken: list[int] = []

    def reset(scheduler: Any, number: int) -> None:
        if number % 40 == 39 and scheduler.running:
            taken.append(len(scheduler.running))
            assert scheduler.reset_prefix_cache(reset_running_requests=True)
            assert scheduler.bidkv.glue.engine.num_running == 0

    scheduler, _, _ = serve(CASE, policy, base, reset)
    counters = scheduler.bidkv.controller.counters
    assert len(taken) > 3
    # What the engine takes back counts as the engine's, but for those just named by the policy.
    assert counters.preemptions_by_engine + counters.preemptions_by_policy >= sum(taken)
    assert counters.completions == len(CASE.requests)
    assert counters.admissions == (
        counters.arrivals + counters.preemptions_by_engine + counters.preemptions_by_policy
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_no_request_is_named_while_the_engine_is_paused(policy, base):
    """Paused, vLLM schedules nothing; paused for new requests, it goes on with those that run."""
    paused: set[int] = set()

    def pause(scheduler: Any, number: int) -> None:
        state = (PauseState.UNPAUSED, PauseState.UNPAUSED, PauseState.PAUSED_NEW)[number // 10 % 3]
        if number % 10 == 5 and len(paused) < 60:
            state = PauseState.PAUSED_ALL
            paused.add(number)
        # A pause of everything while nothing runs would end the test's loop.
        scheduler.set_pause_state(state if scheduler.running else PauseState.UNPAUSED)
        if not scheduler.running:
            paused.discard(number)

    original = Scheduler.has_unfinished_requests
    Scheduler.has_unfinished_requests = lambda self: bool(self.requests)
    try:
        scheduler, named, preempted = serve(CASE, policy, base, pause)
    finally:
        Scheduler.has_unfinished_requests = original
    assert len(paused) > 20
    assert all(not named[number] and not preempted[number] for number in paused)
    assert sum(map(len, named)) > 0
    assert scheduler.bidkv.controller.counters.completions == len(CASE.requests)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_all_requests_are_aborted_at_once(policy, base):
    aborted: list[str] = []

    def abort(scheduler: Any, number: int) -> None:
        if number in (30, 90, 150):
            gone = scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
            aborted.extend(getattr(request, "request_id", request) for request in gone)

    scheduler, _, _ = serve(CASE, policy, base, abort)
    counters = scheduler.bidkv.controller.counters
    assert counters.aborts == len(aborted) > 5
    assert counters.completions + counters.aborts == len(CASE.requests)


def odd_case(shape: str) -> Case:
    """Engines and requests of odd sizes; 40 usable blocks of 16 tokens."""
    engine = EngineShape(num_blocks=41, max_num_seqs=16, max_num_batched_tokens=256, max_model_len=2048)
    lengths = [(20 + i * 37 % 150, 20 + i * 11 % 90) for i in range(40)]
    if shape == "a token for each request":
        engine = replace(engine, max_num_batched_tokens=16)
    elif shape == "prompts cut small":
        engine = replace(engine, long_prefill_token_threshold=8)
    elif shape == "prompts at once":
        engine = replace(engine, chunked_prefill=False, max_num_batched_tokens=2048)
    elif shape == "one or two blocks":
        engine = replace(engine, num_blocks=17, max_num_seqs=16)
        lengths = [(1 + i * 7 % 20, 4 + i * 5 % 12) for i in range(150)]
    elif shape == "as large as the memory":
        lengths = [(600, 40) if i % 3 == 0 else (30, 60) for i in range(24)]
    return Case(
        engine,
        tuple(
            WorkloadRequest(f"r{i}", float(i // 4), prompt, output, max_tokens=output)
            for i, (prompt, output) in enumerate(lengths)
        ),
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "shape",
    [
        "a token for each request",
        "prompts cut small",
        "prompts at once",
        "one or two blocks",
        "as large as the memory",
    ],
)
def test_odd_shapes(shape, policy):
    """Every request ends, and named victims are the preempted ones, but for one in twenty spared."""
    case = odd_case(shape)
    spared = preemptions = 0
    for base in (Scheduler, AsyncScheduler):
        scheduler, named, preempted = serve(case, policy, base)
        assert scheduler.bidkv.controller.counters.completions == len(case.requests)
        for chosen, gone in zip(named, preempted, strict=True):
            assert gone == chosen[: len(gone)]
            spared += len(chosen) - len(gone)
            preemptions += len(gone)
    # The reserve of `fast` alone keeps such small requests from running out of memory.
    assert preemptions > 0 or (shape, policy) == ("one or two blocks", "fast")
    assert spared <= max(1, 0.05 * preemptions)
