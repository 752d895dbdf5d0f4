"""The controller: what the engine is told, what the policy is asked, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.core.under_pressure import Diary, assert_switched_off, engine_under_pressure, one_of_each_event
from tests.support import FakeEngine, FakeRequest, NothingCached, Scripted

from bidkv.control import Controller
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


def last(candidates: Sequence[RequestView], need_blocks: int, engine: EngineView) -> RequestView:
    return candidates[-1]


# --- victims -------------------------------------------------------------------------------------
def test_victims_are_chosen_until_the_step_fits() -> None:
    engine = engine_under_pressure(6)
    control = Controller(Scripted(victim=lambda candidates, need, _: candidates[1]))
    # Six blocks are missing; each victim frees two and no longer needs its own one.
    assert [v.request_id for v in control.before_step(engine)] == ["r1", "r2"]
    counters = control.counters
    assert (counters.pressured_steps, counters.decisions, counters.overrides) == (1, 2, 2)


def test_the_policy_learns_what_is_still_missing_and_who_is_left() -> None:
    seen: list[tuple[list[str], int]] = []

    def choose(candidates: Sequence[RequestView], need: int, engine: EngineView) -> RequestView:
        seen.append(([r.request_id for r in candidates], need))
        return candidates[0]

    Controller(Scripted(victim=choose)).before_step(engine_under_pressure(6))
    assert seen == [(["r0", "r1", "r2", "r3", "r4", "r5"], 6), (["r1", "r2", "r3", "r4", "r5"], 3)]


def test_an_override_is_a_choice_the_engine_would_not_have_made() -> None:
    order = iter([0, -1])
    control = Controller(Scripted(victim=lambda candidates, *_: candidates[next(order)]))
    # First r0 instead of r5, then r5, which is what the engine's own rule would take next.
    assert [v.request_id for v in control.before_step(engine_under_pressure(6))] == ["r0", "r5"]
    assert control.counters.overrides == 1


def test_one_request_always_stays() -> None:
    engine = engine_under_pressure(3)
    for request in engine.running:
        request.num_held_blocks = 0  # no victim frees anything
    assert len(Controller(Scripted(victim=last)).before_step(engine)) == 2


def test_a_lone_request_is_the_engines_own_business() -> None:
    asked: list[object] = []
    control = Controller(Scripted(victim=lambda *args: asked.append(args)))
    assert list(control.before_step(engine_under_pressure(1))) == []
    assert asked == []


@pytest.mark.parametrize(("prefilling", "free"), [(0, 4), (1, 4 + 2048 // 16 + 1)])
def test_nothing_is_computed_while_memory_is_plentiful(prefilling: int, free: int) -> None:
    class Untouchable(FakeEngine):
        def block_demand(self, excluded: frozenset[str]) -> int:
            raise AssertionError("the demand was computed")

    engine = Untouchable(running=engine_under_pressure().running, free_blocks=free, num_prefilling=prefilling)
    control = Controller(Scripted(victim=last))
    assert list(control.before_step(engine)) == []
    engine.free_blocks -= 1
    with pytest.raises(AssertionError, match="the demand was computed"):
        control.before_step(engine)


def test_an_abstention_leaves_the_engine_alone_and_the_policy_in_charge() -> None:
    control = Controller(Scripted(victim=lambda *_: None))
    assert list(control.before_step(engine_under_pressure())) == []
    assert control.active
    assert (control.counters.abstentions, control.counters.decisions) == (1, 0)


def test_capped_requests_are_no_candidates() -> None:
    engine = engine_under_pressure(4)
    engine.running[3].num_preemptions = 2
    engine.running[2].num_preemptions = 1
    assert [v.request_id for v in Controller(Scripted(victim=last, cap=2)).before_step(engine)] == [
        "r2",
        "r1",
    ]


def test_when_all_are_capped_the_engines_rule_decides_and_it_is_counted() -> None:
    engine = engine_under_pressure()
    for request in engine.running:
        request.num_preemptions = 1
    asked: list[object] = []
    control = Controller(Scripted(victim=lambda *args: asked.append(args), cap=1))
    assert list(control.before_step(engine)) == []
    assert list(control.rank_victims(engine, engine.running, 2)) == []
    assert asked == []
    assert control.active
    assert (control.counters.all_capped, control.counters.pressured_steps) == (2, 2)


def test_a_policy_cannot_take_the_controllers_list_apart() -> None:
    def greedy(candidates: Any, need: int, engine: EngineView) -> object:
        candidates.append("impostor")
        return "impostor"

    control = Controller(Scripted(victim=greedy))
    assert list(control.before_step(engine_under_pressure())) == []
    assert_switched_off(control, "exception")


def test_ranking_covers_the_need_and_no_more() -> None:
    engine = engine_under_pressure(5)
    control = Controller(Scripted(victim=lambda candidates, *_: candidates[0]))
    assert [v.request_id for v in control.rank_victims(engine, engine.running, 3)] == ["r0", "r1"]
    assert control.counters.decisions == 2


# --- asked once per event ------------------------------------------------------------------------
def test_admission_questions_are_asked_once_between_two_events() -> None:
    asked = {"next": 0, "reserve": 0}

    def following(engine: EngineView) -> RequestView:
        asked["next"] += 1
        return engine.waiting()[0]

    def reserve(engine: EngineView) -> int:
        asked["reserve"] += 1
        return asked["reserve"]

    engine = engine_under_pressure()
    control = Controller(Scripted(following=following, reserve=reserve))
    events: list[Callable[[], None]] = [
        lambda: control.on_arrival(engine.queue[1], engine),
        lambda: control.on_admit(engine.running[0], engine),
        lambda: control.on_preempt(engine.running[0], 5, engine),
        lambda: control.on_finish(engine.running[0], engine, completed=False),
    ]
    for count, event in enumerate([*events, lambda: None], start=1):
        for _ in range(3):
            assert control.select_next(engine) is engine.queue[0]
            assert control.reserve_blocks(engine) == count
        assert asked == {"next": count, "reserve": count}
        event()


def test_a_shut_gate_stays_shut_until_the_next_event() -> None:
    engine = engine_under_pressure()
    asked: list[EngineView] = []
    control = Controller(Scripted(following=asked.append))  # answers None
    assert control.select_next(engine) is None
    assert control.select_next(engine) is None
    assert (len(asked), control.counters.gate_refusals) == (1, 1)
    assert control.chooses_next  # it is the policy's answer, not a failure
    control.on_finish(engine.running.pop(), engine, completed=True)
    assert control.select_next(engine) is None
    assert len(asked) == 2


def test_on_an_empty_engine_the_gate_cannot_be_held_shut() -> None:
    engine = engine_under_pressure()
    engine.running.clear()
    control = Controller(Scripted(following=lambda engine: None))
    assert control.select_next(engine) is engine.queue[0]
    assert control.counters.gate_refusals == 1
    assert control.active


# --- who is in charge ----------------------------------------------------------------------------
def test_the_kill_switch_silences_the_policy_but_not_the_counters() -> None:
    engine = engine_under_pressure()
    policy = Diary()
    control = Controller(policy)
    control.disable()
    control.disable()
    one_of_each_event(control, engine)
    assert control.select_next(engine) is None
    assert policy.entries == []
    assert (control.killed, control.active, control.chooses_next) == (True, False, False)
    assert (control.counters.arrivals, control.counters.kill_switch_activations) == (1, 1)


def test_a_policy_switched_on_again_starts_afresh_from_the_live_requests() -> None:
    engine = engine_under_pressure(2)
    first = Diary()
    control = Controller(first)
    control.on_arrival(engine.running[0], engine)
    control.disable()
    control.enable()
    control.on_finish(FakeRequest("gone"), engine, completed=True)  # part of the state, not told as an event
    assert control.select_next(engine) is engine.queue[-1]
    second = control.policy
    assert isinstance(second, Diary)
    assert first.entries == [("arrival", "r0")]
    assert second.entries == [
        ("arrival", "r0"),
        ("admit", "r0"),
        ("arrival", "r1"),
        ("admit", "r1"),
        ("arrival", "w0"),
        ("arrival", "w1"),
        ("asked", ""),
    ]
    control.on_preempt(engine.running[1], 3, engine)
    assert second.entries[-1] == ("preempt", "r1")


def test_enabling_closes_the_breaker_and_does_nothing_to_a_policy_in_charge() -> None:
    engine = engine_under_pressure()
    control = Controller(Diary())
    policy = control.policy
    control.enable()
    assert control.policy is policy
    control.breaker.trip("diary", "exception", "by hand")
    control.disable()
    control.enable()
    assert control.active
    assert not control.breaker.is_open
    assert control.select_next(engine) is engine.queue[-1]


@pytest.mark.parametrize("ask", ["before_step", "select_next", "reserve_blocks", "rank_victims"])
def test_a_new_policy_is_told_everything_before_its_first_question(ask: str) -> None:
    engine = engine_under_pressure(2)
    control = Controller(Policy())
    policy = Diary()
    control.switch(policy)
    assert control.policy is policy
    arguments = (engine, engine.running, 1) if ask == "rank_victims" else (engine,)
    getattr(control, ask)(*arguments)
    told = [entry for entry in policy.entries if entry[0] == "arrival"]
    assert told == [("arrival", "r0"), ("arrival", "r1"), ("arrival", "w0"), ("arrival", "w1")]


def test_a_policy_that_fails_while_it_is_told_everything_is_switched_off() -> None:
    engine = engine_under_pressure()

    class Fragile(Diary):
        def on_admit(self, request: RequestView, engine: EngineView) -> None:
            raise ValueError

    control = Controller(Policy())
    control.switch(Fragile())
    assert control.select_next(engine) is None
    assert_switched_off(control, "exception")


def test_switching_releases_the_kill_switch() -> None:
    control = Controller(Policy())
    control.disable()
    control.switch(Diary())
    assert (control.active, control.killed) == (True, False)


def test_an_unusable_policy_leaves_the_old_one_in_charge() -> None:
    control = Controller(Diary())
    policy = control.policy
    with pytest.raises(ValueError, match="preemption cap must be >= 1"):
        control.switch(Scripted(victim=last, cap=0))
    assert control.policy is policy
    assert control.active
    control.disable()
    with pytest.raises(ValueError, match="preemption cap must be >= 1"):
        control.switch(Scripted(victim=last, cap=0))
    assert control.killed


class Moody(Policy):
    """Says once which questions it answers, and raises from then on."""

    name = "moody"

    def __init__(self, times: int) -> None:
        self.times = times

    @property
    def chooses_next(self) -> bool:
        self.times -= 1
        if self.times < 0:
            raise ValueError("hands off")
        return False


def test_a_policy_that_cannot_say_what_it_answers_leaves_the_old_one_in_charge() -> None:
    control = Controller(Diary())
    policy = control.policy
    with pytest.raises(ValueError, match="hands off"):
        control.switch(Moody(0))
    assert control.policy is policy
    assert control.active


def test_a_policy_is_asked_once_what_it_answers() -> None:
    engine = engine_under_pressure()
    control = Controller(Moody(1))
    control.track_sessions(NothingCached())
    control.disable()
    assert list(control.before_step(engine)) == []
    assert control.counters.failures == 0


# --- counters ------------------------------------------------------------------------------------
def test_preemptions_are_told_apart_by_who_decided() -> None:
    engine = engine_under_pressure(3)
    control = Controller(Scripted(victim=lambda candidates, *_: candidates[0]))
    (victim,) = control.before_step(engine)
    control.on_preempt(victim, 33, engine)
    control.on_preempt(engine.running[2], 16, engine)
    engine.free_blocks = 50
    control.before_step(engine)
    control.on_preempt(victim, 1, engine)  # named in an earlier step: now it is the engine's doing
    counters = control.counters
    assert (counters.preemptions_by_policy, counters.preemptions_by_engine) == (1, 2)
    assert (counters.tokens_lost, counters.blocks_freed) == (50, 3 + 1 + 1)


def test_recomputed_tokens_are_those_below_the_highest_position_reached() -> None:
    engine = engine_under_pressure(1)
    request = engine.running[0]
    control = Controller(Policy())
    control.on_admit(request, engine)
    control.on_preempt(request, 100, engine)
    control.on_admit(request, engine)
    control.on_preempt(request, 40, engine)  # lost again before it caught up: 40 recomputed
    control.on_admit(request, engine, cached_tokens=16)
    request.num_computed_tokens = 120  # 16 came from the cache, 84 recomputed, 20 new
    control.on_finish(request, engine, completed=True)
    assert control.counters.recomputed_tokens == 40 + 84
    control.on_admit(request, engine)  # its id is free again
    control.on_finish(request, engine, completed=False)
    assert control.counters.recomputed_tokens == 40 + 84
    assert (control.counters.completions, control.counters.aborts) == (1, 1)


def test_steps_and_tokens_are_counted() -> None:
    control = Controller(Policy())
    engine = engine_under_pressure()
    control.after_step(engine, 7)
    control.after_step(engine, 0)
    assert (control.counters.steps, control.counters.scheduled_tokens) == (2, 7)
    assert control.counters.as_dict()["scheduled_tokens"] == 7


class FakeStability:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def record_request_arrival(self, *args: object) -> None:
        self.calls.append(("arrival", *args))

    def record_request_completion(self, *args: object, mean_blocks: float) -> None:
        self.calls.append(("completion", *args, mean_blocks))


def test_the_estimators_hear_arrivals_and_completions() -> None:
    engine = engine_under_pressure(2)
    stability: Any = FakeStability()
    control = Controller(Policy(), stability=stability)
    request, aborted = engine.running
    request.agent_id = "someone"
    for now, event in (
        (1.0, lambda: control.on_arrival(request, engine)),
        (2.0, lambda: control.on_admit(request, engine)),
        (3.0, lambda: control.on_preempt(request, 32, engine)),
        (4.0, lambda: control.on_admit(request, engine)),
        (5.5, lambda: control.on_finish(request, engine, completed=True)),
        (6.0, lambda: control.on_finish(aborted, engine, completed=False)),
    ):
        engine.now_s = now
        event()
    # Service starts with the first admission; 32 computed tokens are two blocks, held from start to end.
    assert stability.calls == [
        ("arrival", 1.0, 32, "someone"),
        ("completion", 5.5, 3500.0, 2, "someone", 2.0),
    ]
