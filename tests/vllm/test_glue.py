"""Single mechanisms of the adapter on the real scheduler: reserve, admission, priorities, leaks."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, make_request, run_case, worker_output
from tests.vllm.ours import build_ours, run_ours
from vllm.v1.request import RequestStatus

from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest

SHAPE = EngineShape(num_blocks=41, max_num_seqs=8, max_num_batched_tokens=1024)


def requests(*lengths: tuple[int, int], **fields: Any) -> tuple[WorkloadRequest, ...]:
    return tuple(
        WorkloadRequest(f"r{i}", 0.0, prompt, output, max_tokens=output, **fields)
        for i, (prompt, output) in enumerate(lengths)
    )


def scheduler_with(policy: Policy, case: Case, base: type[Scheduler] = Scheduler) -> Any:
    scheduler = build_ours(case, "preempt-evict", base)
    scheduler.bidkv.controller.switch(policy)
    return scheduler


def step(scheduler: Any) -> dict[str, int]:
    output = scheduler.schedule()
    scheduler.update_from_output(output, worker_output(scheduler, output))
    return dict(output.num_scheduled_tokens)


def add(scheduler: Any, case: Case) -> None:
    for index, request in enumerate(case.requests):
        scheduler.add_request(make_request(request, index, case))


class Reserve(Policy):
    name = "reserve"

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def reserve_blocks(self, engine: Any) -> int:
        return self.blocks


@pytest.mark.parametrize(("reserve", "admitted"), [(0, 4), (1, 3), (10, 3), (11, 2), (40, 1)])
def test_a_reserve_stays_free_at_every_admission_but_never_stops_an_idle_engine(reserve, admitted):
    case = Case(SHAPE, requests(*[(160, 4)] * 4))
    scheduler = scheduler_with(Reserve(reserve), case)
    add(scheduler, case)
    assert len(step(scheduler)) == admitted  # 40 blocks, 10 each
    assert scheduler.kv_cache_manager.watermark_blocks == 0, "the engine's own watermark is back after a step"


def test_the_engines_own_watermark_holds_where_it_is_larger():
    shape = EngineShape(num_blocks=41, max_num_seqs=8, max_num_batched_tokens=1024, watermark=0.5)
    case = Case(shape, requests(*[(160, 4)] * 4))
    scheduler = scheduler_with(Reserve(1), case)
    add(scheduler, case)
    assert len(step(scheduler)) == 2
    assert scheduler.kv_cache_manager.watermark_blocks == 20


class LastInFirstOut(Policy):
    name = "lifo"

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def on_arrival(self, request: Any, engine: Any) -> None:
        self.waiting.append(request)

    def on_preempt(self, request: Any, lost_tokens: int, engine: Any) -> None:
        self.waiting.append(request)

    def on_admit(self, request: Any, engine: Any) -> None:
        self.waiting.remove(request)

    def on_finish(self, request: Any, engine: Any, *, completed: bool) -> None:
        if request in self.waiting:
            self.waiting.remove(request)

    def select_next(self, engine: Any) -> Any:
        return self.waiting[-1] if self.waiting else None


def test_the_policy_orders_admissions():
    case = Case(SHAPE, requests(*[(20, 3)] * 5))
    scheduler = scheduler_with(LastInFirstOut(), case)
    add(scheduler, case)
    assert list(step(scheduler)) == ["r4", "r3", "r2", "r1", "r0"]


def test_a_choice_the_engine_must_set_aside_does_not_block_the_others():
    """r2 waits for its grammar: the engine skips it, and goes on in its own order."""
    case = Case(SHAPE, requests(*[(20, 3)] * 3))
    scheduler = scheduler_with(LastInFirstOut(), case)
    add(scheduler, case)
    blocked = scheduler.requests["r2"]
    blocked.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    blocked.structured_output_request = type("NotReady", (), {"grammar": None, "is_grammar_ready": False})()
    assert list(step(scheduler)) == ["r0", "r1"]
    assert len(scheduler.waiting) == 1
    blocked.status = RequestStatus.WAITING
    blocked.structured_output_request = None
    assert "r2" in step(scheduler)
    assert scheduler.bidkv.controller.counters.failures == 0


def test_user_priorities_come_first_and_the_policy_decides_inside_a_class():
    shape = EngineShape(
        num_blocks=41, max_num_seqs=8, max_num_batched_tokens=256, scheduling_policy="priority"
    )
    sources = [
        WorkloadRequest(f"r{i}", float(i) * 1e-3, 20, 3, max_tokens=3, priority=priority)
        for i, priority in enumerate([1, 0, 1, 0])
    ]
    case = Case(shape, tuple(sources))
    scheduler = build_ours(case, "preempt-evict")
    controller = scheduler.bidkv.controller
    from bidkv.policy.parts.classes import WithinClasses

    controller.switch(WithinClasses(LastInFirstOut()))
    add(scheduler, case)
    assert list(step(scheduler)) == ["r3", "r1", "r2", "r0"]


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_victims_belong_to_the_least_important_class(base):
    for seed in range(4):
        case = random_case(seed, scheduling_policy="priority")
        priorities = {request.request_id: request.priority for request in case.requests}
        chosen: list[tuple[int, set[int]]] = []

        def watch(scheduler, chosen=chosen, priorities=priorities):
            def write(victims: Sequence[VllmRequest]) -> None:
                running = {priorities[r.request_id] for r in scheduler.running}
                chosen.append((priorities[victims[0].request_id], running))

            scheduler.bidkv.glue.on_victims = write

        run_ours(case, "lcf", base, prepare=watch)
        assert all(first == max(running) for first, running in chosen)


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("policy", ["lcf", "preempt-evict-sjf"])
def test_aborts_at_any_moment_leave_nothing_behind(base, policy):
    case = random_case(3)
    aborted: list[str] = []

    def abort(scheduler: Any, number: int) -> None:
        if number % 7 == 3 and scheduler.requests:
            victim = sorted(scheduler.requests)[number % len(scheduler.requests)]
            scheduler.finish_requests(victim, RequestStatus.FINISHED_ABORTED)
            aborted.append(victim)

    _, scheduler = run_ours(case, policy, base, before_step=abort)
    counters = scheduler.bidkv.controller.counters
    assert counters.aborts == len(aborted) > 3
    assert counters.completions + counters.aborts == len(case.requests)
    assert counters.failures == 0


def test_the_kill_switch_in_the_middle_of_a_run_and_back():
    case = random_case(5)
    switched: dict[str, int] = {}

    def switch(scheduler: Any, number: int) -> None:
        controller = scheduler.bidkv.controller
        if number == 40:
            controller.disable()
            switched["off"] = controller.counters.decisions
        elif number == 90:
            switched["before on"] = controller.counters.decisions
            controller.enable()

    _, scheduler = run_ours(case, "lcf", before_step=switch)
    counters = scheduler.bidkv.controller.counters
    assert 0 < switched["off"] == switched["before on"] < counters.decisions
    assert counters.preemptions_by_engine > 0
    assert counters.completions == len(case.requests)


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_two_thousand_requests_leak_nothing(base):
    # Short, so that 2,000 take seconds; tight, so that they preempt.
    shape = EngineShape(num_blocks=61, max_num_seqs=32, max_num_batched_tokens=512, prefix_caching=True)
    lengths = [(16 + i * 7 % 90, 8 + i * 5 % 40) for i in range(2000)]
    case = Case(shape, requests(*lengths))
    _, scheduler = run_ours(case, "preempt-evict-sjf", base)
    assert scheduler.bidkv.controller.counters.completions == 2000
    run_case(case, scheduler=_switched(scheduler, "lcf"))
    counters = scheduler.bidkv.controller.counters
    assert counters.completions == 4000
    assert counters.preemptions_by_policy > 50
    glue = scheduler.bidkv.glue
    glue.engine.begin_step()
    assert not glue.engine.views
    assert not scheduler.requests
    assert len(scheduler.waiting) == len(scheduler.running) == 0
    del _
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, VllmRequest)]


def _switched(scheduler: Any, policy: str) -> Any:
    scheduler.bidkv.controller.switch(scheduler.bidkv.resolve(policy))
    return scheduler


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, (None, 1.0, "")),
        ({"bidkv_deadline_ms": 500, "bidkv_weight": "2.5", "bidkv_agent_id": "a"}, (10.5, 2.5, "a")),
        ({"bidkv_deadline_ms": "soon", "bidkv_weight": -1}, (None, 1.0, "")),
        ({"bidkv_deadline_ms": float("nan"), "bidkv_weight": True}, (None, 1.0, "")),
    ],
)
def test_extra_arguments_of_a_request(extra, expected):
    case = Case(SHAPE, requests((20, 3)))
    request = make_request(case.requests[0], 0, case)
    request.sampling_params.extra_args = extra
    view = VllmRequest(request, 10.0, {}, 2048)
    assert (view.deadline_s, view.weight, view.agent_id) == expected
