"""The controller: whatever a policy does, the engine gets a usable answer or its own rule."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
from tests.support import FakeClock, FakeEngine, FakeRequest, Scripted

from bidkv.control import Controller
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class Hostile:
    """Raises whatever is done with it."""

    def __getattr__(self, name: str) -> object:
        raise ValueError("hands off")

    def __repr__(self) -> str:
        raise ValueError("hands off")

    def __eq__(self, other: object) -> bool:
        raise ValueError("hands off")

    def __hash__(self) -> int:
        raise ValueError("hands off")

    def __bool__(self) -> bool:
        raise ValueError("hands off")


class HostileInt(int):
    """An int that answers no comparison."""

    def __le__(self, other: int) -> bool:
        raise ValueError("hands off")

    __lt__ = __ge__ = __gt__ = __le__


class HostileFloat(float):
    """A float that cannot be read."""

    def __float__(self) -> float:
        raise ValueError("hands off")


class NoSessions:
    """A prefix cache in which nothing is ever cached; a `SessionCache`."""

    def cached_tokens(self, request: RequestView) -> int:
        return 0

    def block_keys(self, request: RequestView) -> Sequence[Hashable]:
        return ()

    def is_cached(self, key: Hashable) -> bool:
        return False

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        return 0


class HostileError(Exception):
    """An exception that cannot be printed."""

    def __repr__(self) -> str:
        raise ValueError("hands off")

    __str__ = __repr__


def engine_under_pressure(count: int = 4) -> FakeEngine:
    """Every running request needs a block, none is free, a victim frees two; two requests wait."""
    return FakeEngine(
        running=[FakeRequest(f"r{index}") for index in range(count)],
        queue=[FakeRequest("w0", num_computed_tokens=0), FakeRequest("w1", num_computed_tokens=0)],
    )


def raising(error: BaseException) -> Callable[..., object]:
    def answer(*args: object) -> object:
        raise error

    return answer


def last(candidates: Sequence[RequestView], need_blocks: int, engine: EngineView) -> RequestView:
    return candidates[-1]


def assert_switched_off(control: Controller, kind: str) -> None:
    assert not control.active
    assert control.breaker.is_open
    assert control.breaker.failures == {kind: 1}
    assert control.counters.failures == 1
    assert not any((control.chooses_victims, control.chooses_next, control.keeps_reserve))


class Diary(Policy):
    """Writes down what it is told, and what it is asked."""

    name = "diary"

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self.entries.append(("arrival", request.request_id))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self.entries.append(("admit", request.request_id))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        self.entries.append(("preempt", request.request_id))

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self.entries.append(("finish", request.request_id))

    def select_next(self, engine: EngineView) -> RequestView | None:
        self.entries.append(("asked", ""))
        return engine.waiting()[-1]


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


# --- nonsense ------------------------------------------------------------------------------------
NOT_A_REQUEST: list[Callable[[FakeEngine], object]] = [
    lambda engine: 0,
    lambda engine: "r0",
    lambda engine: object(),
    lambda engine: Hostile(),
    lambda engine: Hostile,
    lambda engine: [engine.running[0]],
    lambda engine: float("nan"),
    lambda engine: (request for request in engine.running),
    lambda engine: copy.copy(engine.running[0]),
    lambda engine: FakeRequest("stranger"),
]
NOT_A_VICTIM = [*NOT_A_REQUEST, lambda engine: engine.queue[0]]
NOT_NEXT = [*NOT_A_REQUEST, lambda engine: engine.running[0]]
NOT_A_RESERVE: list[object] = [
    -1,
    101,
    True,
    False,
    1.0,
    "3",
    None,
    float("nan"),
    [1],
    Hostile(),
    HostileInt(3),
]


@pytest.mark.parametrize("garbage", NOT_A_VICTIM)
def test_a_victim_who_is_no_candidate_switches_the_policy_off(garbage: Callable[[Any], object]) -> None:
    engine = engine_under_pressure()
    control = Controller(Scripted(victim=lambda *_: garbage(engine)))
    assert list(control.before_step(engine)) == []
    assert_switched_off(control, "invalid_answer")
    control = Controller(Scripted(victim=lambda *_: garbage(engine)))
    assert list(control.rank_victims(engine, engine.running, 2)) == []
    assert_switched_off(control, "invalid_answer")


@pytest.mark.parametrize("garbage", NOT_NEXT)
def test_a_next_request_who_does_not_wait_switches_the_policy_off(garbage: Callable[[Any], object]) -> None:
    engine = engine_under_pressure()
    control = Controller(Scripted(following=garbage))
    assert control.select_next(engine) is None
    assert_switched_off(control, "invalid_answer")


@pytest.mark.parametrize("garbage", NOT_A_RESERVE, ids=lambda value: type(value).__name__)
def test_an_impossible_reserve_switches_the_policy_off(garbage: object) -> None:
    control = Controller(Scripted(reserve=lambda engine: garbage))
    assert control.reserve_blocks(engine_under_pressure()) == 0
    assert_switched_off(control, "invalid_answer")


@pytest.mark.parametrize("reserve", [0, 1, 100])
def test_a_possible_reserve_is_kept(reserve: int) -> None:
    control = Controller(Scripted(reserve=lambda engine: reserve))
    assert control.reserve_blocks(engine_under_pressure()) == reserve
    assert control.active


def test_what_was_answered_before_a_failure_stands() -> None:
    engine = engine_under_pressure(6)
    for failing in (raising(RuntimeError()), lambda *_: "garbage"):
        answers = iter([lambda candidates, *_: candidates[2], failing])
        control = Controller(Scripted(victim=lambda *args, answers=answers: next(answers)(*args)))
        assert [v.request_id for v in control.before_step(engine)] == ["r2"]
        assert not control.active


# --- exceptions ----------------------------------------------------------------------------------
ERRORS = [
    RuntimeError("x" * 10_000),
    KeyError(),
    RecursionError(),
    MemoryError(),
    StopIteration(),
    HostileError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("time_budget_s", [None, 1.0])
def test_an_exception_in_a_question_switches_the_policy_off_and_is_logged_once(
    error: Exception, time_budget_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_under_pressure()
    answer = raising(error)
    for ask in (
        lambda control: list(control.before_step(engine)) == [],
        lambda control: list(control.rank_victims(engine, engine.running, 1)) == [],
        lambda control: control.select_next(engine) is None,
        lambda control: control.reserve_blocks(engine) == 0,
    ):
        caplog.clear()
        control = Controller(
            Scripted(victim=answer, following=answer, reserve=answer), time_budget_s=time_budget_s
        )
        assert ask(control)
        assert_switched_off(control, "exception")
        assert ask(control)  # the engine goes on alone, and the log stays as it is
        assert len(caplog.records) == 1
        assert caplog.records[0].levelno == logging.ERROR
        assert len(caplog.text) < 1_000
        assert control.counters.failures == 1


class OddError(BaseException):
    """What a policy's own code may raise although it is no `Exception`."""


@pytest.mark.parametrize("error", [OddError(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("time_budget_s", [None, 1.0])
def test_an_error_that_is_no_exception_switches_the_policy_off_too(
    error: BaseException, time_budget_s: float | None
) -> None:
    engine = engine_under_pressure()
    control = Controller(Scripted(victim=raising(error)), time_budget_s=time_budget_s)
    assert list(control.before_step(engine)) == []
    assert_switched_off(control, "exception")
    control = Controller(Policy(), time_budget_s=time_budget_s)
    control.guarded(raising(error))()
    assert_switched_off(control, "exception")


@pytest.mark.parametrize("event", ["on_arrival", "on_admit", "on_preempt", "on_finish"])
def test_an_exception_in_an_event_switches_the_policy_off(
    event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_under_pressure()
    policy = Diary()
    monkeypatch.setattr(Diary, event, raising(ValueError()))
    control = Controller(policy)
    one_of_each_event(control, engine)
    assert_switched_off(control, "exception")
    counters = control.counters
    seen = (counters.arrivals, counters.admissions, counters.preemptions_by_engine, counters.completions)
    assert seen == (1, 1, 1, 1)


def one_of_each_event(control: Controller, engine: FakeEngine) -> None:
    request = engine.running[0]
    control.on_arrival(request, engine)
    control.on_admit(request, engine)
    control.on_preempt(request, 32, engine)
    control.on_finish(request, engine, completed=True)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3)])
def test_a_request_to_stop_the_process_goes_through(stop: BaseException) -> None:
    # Engines stop by raising SystemExit in a signal handler, which may strike inside a policy.
    control = Controller(Scripted(victim=raising(stop)))
    with pytest.raises(type(stop)):
        control.before_step(engine_under_pressure())
    assert control.active
    assert control.call_started_s is None


# --- time ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("takes_s", "switched_off"), [(0.1, False), (0.11, True)])
def test_an_answer_beyond_the_time_budget_is_not_used(takes_s: float, switched_off: bool) -> None:
    clock = FakeClock()
    timed: list[float] = []

    def slow(candidates: Sequence[RequestView], need: int, engine: EngineView) -> RequestView:
        clock.now_s += takes_s
        return candidates[0]

    policy = Scripted(victim=slow)
    control = Controller(policy, time_budget_s=0.1, clock=clock, on_decision_time=timed.append)
    victims = control.before_step(engine_under_pressure(2))
    assert [v.request_id for v in victims] == ([] if switched_off else ["r0"])
    assert timed == [pytest.approx(takes_s)]
    if switched_off:
        assert_switched_off(control, "time_budget")
        assert "110.0 ms, budget 100.0 ms" in control.breaker.reason


def test_a_slow_event_counts_too() -> None:
    clock = FakeClock()
    engine = engine_under_pressure()

    class Slow(Diary):
        def on_arrival(self, request: RequestView, engine: EngineView) -> None:
            clock.now_s += 1.0

    control = Controller(Slow(), time_budget_s=0.5, clock=clock)
    control.on_arrival(engine.queue[0], engine)
    assert_switched_off(control, "time_budget")


def test_without_a_budget_no_answer_is_too_late() -> None:
    clock = FakeClock()

    def slow(engine: EngineView) -> int:
        clock.now_s += 1e6
        return 3

    control = Controller(Scripted(reserve=slow), time_budget_s=None, clock=clock)
    assert control.reserve_blocks(engine_under_pressure()) == 3
    assert control.active


def test_a_watchdog_can_see_since_when_a_call_runs() -> None:
    clock = FakeClock()
    clock.now_s = 5.0
    seen: list[float | None] = []
    control = Controller(
        Scripted(reserve=lambda engine: seen.append(control.call_started_s) or 0), clock=clock
    )
    control.reserve_blocks(engine_under_pressure())
    assert seen == [5.0]
    assert control.call_started_s is None


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_an_impossible_budget_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="time_budget_s must be > 0 or None"):
        Controller(Policy(), time_budget_s=budget)


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
    control.track_sessions(NoSessions())
    control.disable()
    assert list(control.before_step(engine)) == []
    assert control.counters.failures == 0


# --- figures -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("figures", "shown", "failures"),
    [
        ({"a": 1, "b": 2.5, "c": "text", "d": None}, {"a": 1.0, "b": 2.5}, 0),
        ({"a": 10**400}, {}, 1),  # no float is that large
        ({"a": HostileFloat(1.0)}, {}, 1),
        ([("a", 1.0)], {}, 0),
    ],
)
def test_figures_that_are_no_numbers_are_the_policys_own_fault(
    figures: Any, shown: dict[str, float], failures: int
) -> None:
    policy = Policy()
    policy.read_figures = lambda engine: figures  # type: ignore[method-assign]
    control = Controller(policy)
    assert control.read_figures(FakeEngine()) == shown
    assert control.counters.failures == failures
    assert control.active == (not failures)


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
