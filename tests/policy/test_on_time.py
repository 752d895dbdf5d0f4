"""`on-time` on engines set by hand: who is on time, who is late, and what share the late ones get."""

from __future__ import annotations

from tests.policy.hand_set import admit, arrive, entering, request
from tests.support import FakeEngine

from bidkv.policy.own.on_time import OnTime


def test_on_time_serves_the_cheapest_first_and_the_late_by_arrival() -> None:
    policy, engine = OnTime(late_share=1.0, dial=0.0), FakeEngine(free_blocks=10_000)
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("old", 0.0, 64), request("older", -0.5, 640))
    engine.now_s = 2.5  # both are beyond 2 s
    arrive(policy, engine, request("long", 2.4, 640), request("short", 2.45, 32))
    assert entering(policy, engine) == ["older", "old", "short", "long"]


def test_on_time_never_gives_late_ones_less_than_their_share() -> None:
    policy, engine = OnTime(late_share=0.5), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, *(request(f"late{i}", 0.01 * i) for i in range(20)))
    engine.now_s = 3.0
    arrive(policy, engine, *(request(f"new{i}", 2.9 + 0.001 * i) for i in range(20)))
    names = entering(policy, engine)
    for count in range(2, 40):
        late = sum(name.startswith("late") for name in names[:count])
        assert count // 2 - 1 <= late <= count // 2 + 1
    assert sorted(names) == sorted([f"late{i}" for i in range(20)] + [f"new{i}" for i in range(20)])


def test_without_a_share_late_ones_wait_for_all_that_are_on_time() -> None:
    policy, engine = OnTime(late_share=0.0), FakeEngine(free_blocks=10_000)
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("late", 0.0))
    engine.now_s = 3.0
    arrive(policy, engine, request("a", 2.9, 64), request("b", 2.9, 32))
    assert entering(policy, engine) == ["b", "a", "late"]


def test_before_costs_are_known_those_on_time_enter_in_order_of_arrival() -> None:
    policy, engine = OnTime(), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, request("long", 0.0, 640), request("short", 0.1, 32))
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("middle", 0.2, 320), request("least", 0.3, 16))
    assert entering(policy, engine) == ["long", "short", "least", "middle"]


def test_a_deadline_that_comes_before_the_objective_makes_a_request_late_earlier() -> None:
    policy, engine = OnTime(late_share=1.0), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, request("hurried", 0.0, 640, deadline_s=0.2), request("short", 0.0, 32))
    engine.now_s = 0.5
    assert entering(policy, engine) == ["hurried", "short"]


def test_memory_does_not_stay_empty_for_the_turn_of_one_kind() -> None:
    policy, engine = OnTime(late_share=1.0, passes=1), FakeEngine(free_blocks=1000)
    policy.remaining.num_finished = 32
    arrive(policy, engine, request("cheap", 0.0, 16))
    assert entering(policy, engine) == ["cheap"]
    arrive(policy, engine, request("late", 0.0, 1600))
    engine.now_s, engine.free_blocks = 3.0, 50
    arrive(policy, engine, request("a", 2.9, 64), request("b", 2.9, 32))
    first = policy.select_next(engine)
    assert first is not None
    assert first.request_id == "b"
    admit(policy, engine, first)  # type: ignore[arg-type]
    # Passed by the work of a typical request already: now it waits for memory alone.
    assert policy.select_next(engine) is engine.queue[0]
