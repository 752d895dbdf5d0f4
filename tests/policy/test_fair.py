"""`fair` on engines set by hand: when a preempted request returns, and who may pass it."""

from __future__ import annotations

import pytest
from tests.policy.hand_set import admit, arrive, entering, preempt, request
from tests.support import FakeEngine, FakeRequest

from bidkv.policy.own.fair import Fair
from bidkv.policy.parts.reserve import AdmissionRoom
from bidkv.policy.parts.returning import PASS_GROWTH, ReturnQueue


def fair_with_one_preempted(passes: int, prompt: int = 1600) -> tuple[Fair, FakeEngine, list[FakeRequest]]:
    """`out` was preempted and needs 100 blocks; small requests have arrived since."""
    policy, engine = Fair(passes=passes), FakeEngine(free_blocks=1000)
    out, *small = request("out", 0.0, prompt), *(request(f"s{i}", 1.0 + i, 64) for i in range(6))
    arrive(policy, engine, out)
    admit(policy, engine, out)
    arrive(policy, engine, *small)
    preempt(policy, engine, out)
    return policy, engine, [out, *small]


def test_fair_lets_a_preempted_request_that_fits_return_first() -> None:
    policy, engine, _ = fair_with_one_preempted(passes=8)
    assert entering(policy, engine) == ["out", "s0", "s1", "s2", "s3", "s4", "s5"]


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_preempted_request_that_does_not_fit_is_passed_by_so_many_newcomers_and_no_more(
    passes: int,
) -> None:
    policy, engine, (out, *small) = fair_with_one_preempted(passes)
    engine.free_blocks = 60
    for newcomer in small[:passes]:
        assert policy.select_next(engine) is newcomer
        admit(policy, engine, newcomer)
    assert policy.select_next(engine) is out
    # The count starts anew once it returned.
    engine.free_blocks = 1000
    admit(policy, engine, out)
    preempt(policy, engine, out)
    engine.free_blocks = 60
    assert policy.select_next(engine) is (small[passes] if passes else out)


def test_after_its_passes_a_preempted_request_is_passed_by_none() -> None:
    policy, engine, (out, first, second, *_) = fair_with_one_preempted(passes=1)
    engine.free_blocks = 60
    admit(policy, engine, first)
    assert policy.select_next(engine) is out  # second may not pass it, and it does not fit
    preempt(policy, engine, first)
    assert policy.select_next(engine) is out  # first was preempted too, and may not pass it either
    engine.free_blocks = 1000
    assert policy.select_next(engine) is out  # they return in the order in which they arrived
    admit(policy, engine, out)
    assert policy.select_next(engine) is first
    admit(policy, engine, first)
    assert policy.select_next(engine) is second


def test_a_returning_request_counts_as_a_pass() -> None:
    policy, engine, (out, first, second, *_) = fair_with_one_preempted(passes=2)
    engine.free_blocks = 60
    admit(policy, engine, first)
    preempt(policy, engine, first)
    assert policy.select_next(engine) is first
    admit(policy, engine, first)
    assert policy.select_next(engine) is out  # passed by first twice
    engine.free_blocks = 1000
    admit(policy, engine, out)
    assert policy.select_next(engine) is second


def test_a_newcomer_that_passes_leaves_room_for_those_that_run_to_grow() -> None:
    policy, engine, (out, first, *_) = fair_with_one_preempted(passes=8)
    engine.running = [request(f"r{i}") for i in range(4)]
    engine.free_blocks = 4 + int(4 * PASS_GROWTH) + 4 // 2 - 1  # its own, theirs, the reserve, one too few
    assert policy.select_next(engine) is out
    engine.free_blocks += 1
    assert policy.select_next(engine) is first


def test_nobody_passes_a_newcomer_that_does_not_fit() -> None:
    policy, engine = Fair(passes=8), FakeEngine(free_blocks=1000)
    out, big, small = request("out", 0.0, 1600), request("big", 0.5, 640), request("small", 1.0, 16)
    arrive(policy, engine, out)
    admit(policy, engine, out)
    arrive(policy, engine, big, small)
    preempt(policy, engine, out)
    engine.free_blocks = 30
    assert policy.select_next(engine) is out


@pytest.mark.parametrize(("passes", "enters"), [(1, "small"), (0, "large")])
def test_another_preempted_request_may_return_in_place_of_one_that_does_not_fit(
    passes: int, enters: str
) -> None:
    policy, engine = Fair(passes=passes), FakeEngine(free_blocks=1000)
    small, large, newcomer = request("small", 0.0, 64), request("large", 0.1, 1600), request("new", 0.2, 16)
    arrive(policy, engine, small, large, newcomer)
    for member in (small, large):
        admit(policy, engine, member)
    preempt(policy, engine, small)
    preempt(policy, engine, large)
    engine.free_blocks = 60
    head = policy.select_next(engine)
    assert head is not None
    assert head.request_id == enters  # 0 passes: who was preempted last is first, as in the engine


def test_a_preempted_request_that_fits_without_its_room_to_grow_waits() -> None:
    queue = ReturnQueue(passes=8)
    out = request("out")
    queue.arrive(out, 20)
    queue.admit(out)
    queue.preempt(out, 20)
    room = AdmissionRoom(free=30, running=10, growth_per_block=0.5, most_growth=40.0)
    assert queue.choose(room) is None
    assert queue.choose(room._replace(free=50)) is out
    assert queue.choose(room._replace(free=10)) is out  # it does not fit: the engine admits none
