"""Whatever a policy does wrong, it is switched off and the engine goes on by its own rule."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.core.under_pressure import Diary, assert_switched_off, engine_under_pressure, one_of_each_event
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


class HostileError(Exception):
    """An exception that cannot be printed."""

    def __repr__(self) -> str:
        raise ValueError("hands off")

    __str__ = __repr__


def raising(error: BaseException) -> Callable[..., object]:
    def answer(*args: object) -> object:
        raise error

    return answer


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
    try:
        raise error
    except BaseException as raised:
        control.blame(raised)
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
def test_figures_that_fail_end_alone(
    caplog: pytest.LogCaptureFixture, figures: Any, shown: dict[str, float], failures: int
) -> None:
    policy = Policy()
    policy.read_figures = lambda engine: figures  # type: ignore[method-assign]
    control = Controller(policy)
    assert control.read_figures(FakeEngine()) == shown
    assert control.read_figures(FakeEngine()) == shown
    assert control.counters.failures == len(caplog.records) == failures
    assert control.active
    control.switch(policy)  # another chance
    assert control.read_figures(FakeEngine()) == {}  # it starts afresh first
