"""Each policy of the contract chooses whom the contract's own strategy would act on first."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest

from bidkv.baselines import (
    BaselineStrategy,
    BidKVStrategy,
    LargestFirstStrategy,
    PreemptEvictSJFStrategy,
    PreemptEvictStrategy,
    RequestState,
    StaticRandomStrategy,
)
from bidkv.policy import resolve


@st.composite
def running(draw: st.DrawFn) -> list[FakeRequest]:
    """Running requests with few distinct figures, so that ties are common."""
    requests = []
    for index in range(draw(st.integers(1, 10))):
        prompt, generated = draw(st.integers(2, 6)), draw(st.integers(0, 4))
        cap = draw(st.sampled_from([None, 4, 8]))
        requests.append(
            FakeRequest(
                f"r{index}",
                num_prompt_tokens=prompt,
                num_output_tokens=generated,
                num_computed_tokens=draw(st.integers(2, prompt + generated)),
                max_tokens=cap,
                num_preemptions=draw(st.integers(0, 2)),
                num_held_blocks=draw(st.integers(1, 4)),
            )
        )
    return requests


def first_action(strategy: BaselineStrategy, states: list[RequestState]) -> str:
    # An engine that evicts last in, first out lists the newest first: the order settles ties.
    return strategy.select_victims(states[::-1], needed_tokens=1)[0].request_id


@given(requests=running())
def test_largest_first(requests: list[FakeRequest]) -> None:
    # Inside an engine whole requests are ranked by the KV they hold.
    states = [RequestState(r.request_id, current_tokens=r.num_computed_tokens) for r in requests]
    victim = resolve("largest-first").select_victim(requests, 1, FakeEngine(requests))
    assert victim is not None
    assert victim.request_id == first_action(LargestFirstStrategy(compressible_ratio=1.0), states)


@given(requests=running(), prefix_caching=st.booleans())
@settings(max_examples=200)
def test_bidkv(requests: list[FakeRequest], prefix_caching: bool) -> None:
    engine = FakeEngine(requests, prefix_caching=prefix_caching)
    states = [
        RequestState(
            r.request_id,
            current_tokens=r.num_prompt_tokens + r.num_output_tokens,
            num_prompt_tokens=r.num_prompt_tokens,
            num_computed_tokens=r.num_computed_tokens,
            max_output_tokens=r.max_tokens or 0,
            num_preemptions=r.num_preemptions,
            private_tokens=engine.freed_blocks(r) * engine.block_size if prefix_caching else 0,
        )
        for r in requests
    ]
    victim = resolve("bidkv").select_victim(requests, 1, engine)
    assert victim is not None
    assert victim.request_id == first_action(BidKVStrategy(), states)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("preempt-evict", PreemptEvictStrategy()), ("preempt-evict-sjf", PreemptEvictSJFStrategy())],
)
def test_the_engines_own_order_is_the_strategys(name: str, strategy: BaselineStrategy) -> None:
    assert not resolve(name).chooses_victims  # the engine takes the last of running, as does the strategy
    states = [RequestState(f"r{index}", current_tokens=10) for index in range(4)]
    assert first_action(strategy, states) == "r3"


def test_static_random_draws_everybody_alike_and_repeats_itself() -> None:
    requests = [FakeRequest(f"r{index}") for index in range(4)]
    states = [RequestState(r.request_id, current_tokens=10) for r in requests]
    engine = FakeEngine(requests)
    policy, again = resolve("static-random:seed=1"), resolve("static-random:seed=1")
    strategy = StaticRandomStrategy(seed=1)
    drawn: Counter[str] = Counter()
    by_strategy: Counter[str] = Counter()
    for _ in range(2000):
        victim = policy.select_victim(requests, 1, engine)
        assert victim is again.select_victim(requests, 1, engine)
        assert victim is not None
        drawn[victim.request_id] += 1
        by_strategy[first_action(strategy, states)] += 1
    for counts in (drawn, by_strategy):
        assert all(400 <= counts[r.request_id] <= 600 for r in requests)  # 500 expected, deviation 19


@given(requests=running())
def test_least_computed_first_takes_the_least_and_the_later_of_equals(requests: list[FakeRequest]) -> None:
    victim = resolve("lcf").select_victim(requests, 1, FakeEngine(requests))
    fewest = min(r.num_computed_tokens for r in requests)
    assert victim is [r for r in requests if r.num_computed_tokens == fewest][-1]


def test_shortest_prompt_first_follows_the_queue() -> None:
    long, short, equal = (
        FakeRequest("long", num_prompt_tokens=50),
        FakeRequest("short", num_prompt_tokens=5, arrival_s=1.0),
        FakeRequest("equal", num_prompt_tokens=5, arrival_s=2.0),
    )
    engine = FakeEngine()
    policy = resolve("preempt-evict-sjf")
    assert policy.select_next(engine) is None
    for request in (long, short, equal):
        policy.on_arrival(request, engine)
    assert policy.select_next(engine) is short
    policy.on_admit(short, engine)
    assert policy.select_next(engine) is equal
    policy.on_preempt(short, 10, engine)
    assert policy.select_next(engine) is short  # the earlier arrival of two equal prompts
    policy.on_finish(short, engine, completed=False)  # aborted while it waited
    policy.on_finish(equal, engine, completed=False)
    assert policy.select_next(engine) is long
