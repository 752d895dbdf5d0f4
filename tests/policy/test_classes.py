"""User priorities come first; a policy decides inside a class only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.support import FakeEngine

from bidkv.policy import resolve
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import Policy

ENGINE = FakeEngine()


def request(name: str, priority: int, *, prompt: int = 10, computed: int = 0) -> Any:
    return SimpleNamespace(
        request_id=name,
        priority=priority,
        num_prompt_tokens=prompt,
        num_computed_tokens=computed,
        arrival_s=0.0,
    )


def test_victims_come_from_the_least_important_class():
    policy = WithinClasses(resolve("lcf"))
    small, large, other = (
        request("a", 0, computed=1),
        request("b", 2, computed=9),
        request("c", 2, computed=5),
    )
    assert policy.select_victim([small, large, other], 1, ENGINE) is other
    assert policy.select_victim([small, large], 1, ENGINE) is large
    assert policy.select_victim([small], 1, ENGINE) is small


def test_admissions_come_from_the_most_important_class_that_waits():
    policy = WithinClasses(resolve("preempt-evict-sjf"))
    waiting = [request("a", 1, prompt=5), request("b", 0, prompt=50), request("c", 0, prompt=20)]
    for member in waiting:
        policy.on_arrival(member, ENGINE)
    entered = []
    while (chosen := policy.select_next(ENGINE)) is not None:
        entered.append(chosen.request_id)
        policy.on_admit(chosen, ENGINE)
    assert entered == ["c", "b", "a"]


def test_a_preempted_request_waits_in_its_class_again():
    policy = WithinClasses(resolve("preempt-evict-sjf"))
    first, second = request("a", 0, prompt=30), request("b", 1, prompt=5)
    for member in (first, second):
        policy.on_arrival(member, ENGINE)
    policy.on_admit(first, ENGINE)
    assert policy.select_next(ENGINE) is second
    policy.on_preempt(first, 7, ENGINE)
    assert policy.select_next(ENGINE) is first


def test_classes_nobody_uses_are_forgotten():
    policy = WithinClasses(resolve("preempt-evict-sjf"))
    for priority in range(1000):
        member = request(f"r{priority}", priority)
        policy.on_arrival(member, ENGINE)
        policy.on_admit(member, ENGINE)
        policy.on_finish(member, ENGINE, completed=True)
    assert not policy._classes
    assert policy.select_next(ENGINE) is None


def test_it_answers_exactly_what_the_policy_inside_answers():
    class Reserve(Policy):
        name = "reserve"
        preemption_cap = 3

        def reserve_blocks(self, engine: Any) -> int:
            return 17

    outside = WithinClasses(Reserve())
    assert (outside.name, outside.preemption_cap) == ("reserve", 3)
    assert (outside.chooses_victims, outside.chooses_next, outside.keeps_reserve) == (False, False, True)
    assert outside.reserve_blocks(ENGINE) == 17
    assert WithinClasses(resolve("lcf")).chooses_victims
    assert WithinClasses(resolve("preempt-evict-sjf")).chooses_next
