"""Preemptions whose tokens the prefix cache brings back: what is learned of them, and what follows."""

from __future__ import annotations

import functools
import math

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import resolve
from bidkv.policy.own.fair import Fair
from bidkv.policy.own.fast import Fast
from bidkv.policy.own.on_time import OnTime
from bidkv.policy.own.reserving import ReservingPolicy
from bidkv.policy.own.sessions import Sessions
from bidkv.policy.parts.found_again import MOSTLY
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads.families import FAMILIES

LOST = 320


def preempt(policy: ReservingPolicy, engine: FakeEngine, request: FakeRequest) -> None:
    engine.running.remove(request)
    engine.queue.insert(0, request)
    policy.on_preempt(request, LOST, engine)


def come_back(policy: ReservingPolicy, engine: FakeEngine, request: FakeRequest, found: int) -> None:
    engine.queue.remove(request)
    engine.running.append(request)
    request.num_cached_tokens = found
    policy.on_admit(request, engine)


def experienced(
    found: int,
    returns: int = 8,
    *,
    policy: ReservingPolicy | None = None,
    session_id: str = "",
    caching: bool = True,
) -> tuple[ReservingPolicy, FakeEngine, list[FakeRequest]]:
    """A policy that saw requests come back with `found` of their 320 lost tokens cached."""
    policy = Fair() if policy is None else policy
    engine = FakeEngine(free_blocks=1000, num_blocks=1000, prefix_caching=caching)
    members = [
        FakeRequest(name, num_prompt_tokens=prompt, num_computed_tokens=prompt, session_id=session_id)
        for name, prompt in (("old", 64), ("middle", 3200), ("late", 3200))
    ]
    for member in members:
        engine.queue.append(member)
        policy.on_arrival(member, engine)
        come_back(policy, engine, member, 0)
    for _ in range(returns):
        preempt(policy, engine, members[2])
        come_back(policy, engine, members[2], found)
    return policy, engine, members


def test_where_most_is_found_again_the_last_one_admitted_goes() -> None:
    policy, engine, (old, _, late) = experienced(found=LOST)
    assert policy.select_victim(engine.running, 1, engine) is late
    policy, engine, (old, _, late) = experienced(found=0)
    assert policy.select_victim(engine.running, 1, engine) is old


@pytest.mark.parametrize(
    ("found", "returns", "session_id", "caching", "cheap"),
    [
        (int(MOSTLY * LOST) + 1, 8, "", True, True),
        (int(MOSTLY * LOST) - 1, 8, "", True, False),
        (LOST, 7, "", True, False),
        (LOST, 8, "a session", True, False),
        (LOST, 8, "", False, False),
    ],
)
def test_preemptions_are_cheap_once_enough_single_requests_have_found_enough(
    found: int, returns: int, session_id: str, caching: bool, cheap: bool
) -> None:
    policy, _, _ = experienced(found, returns, session_id=session_id, caching=caching)
    assert policy.found.mostly is cheap
    assert policy.found.lost_share == pytest.approx(1.0 - cheap * found / LOST)


def test_what_is_found_again_does_not_raise_the_reserve_and_keeps_no_half_block() -> None:
    lost, lost_engine, _ = experienced(found=0)
    found, found_engine, _ = experienced(found=LOST)
    assert lost.reserve_blocks(lost_engine) > found.reserve_blocks(found_engine)
    for policy, engine, kept in ((lost, lost_engine, 1), (found, found_engine, 0)):
        engine.now_s += 1e6
        policy.on_finish(engine.running[0], engine, completed=True)
        engine.now_s += 1e6
        assert policy.reserve_blocks(engine) == kept


def test_where_most_is_found_again_the_last_one_preempted_returns_first_and_at_once() -> None:
    policy, engine, (old, middle, _) = experienced(found=LOST)
    for member in (old, middle):
        preempt(policy, engine, member)
    engine.free_blocks = 200  # the prompt itself and no room to grow
    assert policy.select_next(engine) is middle
    policy, engine, (old, middle, _) = experienced(found=0)
    for member in (old, middle):
        preempt(policy, engine, member)
    assert policy.select_next(engine) is old


def test_without_passes_left_a_preempted_request_returns_in_its_turn() -> None:
    policy, engine, (_, middle, late) = experienced(found=LOST, policy=Fair(passes=1))
    for member in (middle, late):
        preempt(policy, engine, member)
    come_back(policy, engine, late, LOST)  # it passed the other
    preempt(policy, engine, late)
    assert policy.select_next(engine) is middle


def test_the_share_is_forgotten_with_the_requests_that_left() -> None:
    policy, engine, members = experienced(found=LOST)
    preempt(policy, engine, members[0])
    policy.on_finish(members[0], engine, completed=False)
    engine.queue.remove(members[0])
    policy.found.come_back(members[0])
    assert policy.found.lost_share == 0.0


def test_sessions_learns_from_requests_without_a_session_as_fair_does() -> None:
    policy, _, _ = experienced(LOST, policy=Sessions())
    assert policy.found.mostly
    policy, _, _ = experienced(LOST, policy=Sessions(), session_id="a session")
    assert not policy.found.mostly


def test_where_most_is_found_again_fast_keeps_the_order_of_fair() -> None:
    policy, engine, (old, middle, _) = experienced(LOST, policy=Fast())
    assert isinstance(policy, Fast)
    policy.remaining.num_finished = 10**9
    for member in (old, middle):
        preempt(policy, engine, member)
    engine.free_blocks = 100
    assert policy.select_next(engine) is middle  # 200 blocks: it does not fit, and nothing passes it
    come_back(policy, engine, middle, LOST)
    assert policy.select_next(engine) is old
    cheap, dear = (FakeRequest(name, num_prompt_tokens=prompt) for name, prompt in (("c", 16), ("d", 16_000)))
    for arrival in (dear, cheap):
        engine.queue.append(arrival)
        policy.on_arrival(arrival, engine)
    assert policy.bids["c"].put_back == policy.bids["d"].put_back == 0.5


def test_on_time_keeps_its_own_order_where_most_is_found_again() -> None:
    policy, engine, (old, middle, _) = experienced(LOST, policy=OnTime())
    assert isinstance(policy, OnTime)
    for member in (old, middle):
        preempt(policy, engine, member)
    assert policy.found.mostly
    assert policy.select_next(engine) is old  # the key of its first bid


@functools.cache
def rollouts(spec: str, seed: int) -> RunResult:
    engine = EngineConfig(2048, max_num_seqs=128, enable_prefix_caching=True)
    return simulate(requests_at(seed, 3.0), resolve(spec), engine, load_profile(DEFAULT_PROFILE))


def requests_at(seed: int, rate_rps: float) -> list[WorkloadRequest]:
    return FAMILIES["group-rollouts"](300, rate_rps, seed)


def test_samples_of_one_prompt_are_not_slower_than_in_the_engines_own_order() -> None:
    logs = {"e2e_s": 0.0, "ttft_s": 0.0}
    preempted = 0
    for seed in (1, 2, 5, 6):
        ours, theirs = rollouts("fair", seed), rollouts("preempt-evict", seed)
        preempted += ours.totals.preemptions
        for figure in logs:
            logs[figure] += math.log(ours.summary()[figure]["mean"] / theirs.summary()[figure]["mean"]) / 4
    assert preempted > 400
    assert math.exp(logs["e2e_s"]) < 1.0
    assert math.exp(logs["ttft_s"]) < 1.05
