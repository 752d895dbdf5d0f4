"""The price of a lost token where a KV connector can load it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.support import FakeClock, FakeEngine
from tests.vllm.cases import random_case
from tests.vllm.ours import build_ours, run_ours
from tests.vllm.remote_store import remote_store

from bidkv.adapters.vllm.restoring import LEAST_RETURNS, RestorePrice


def priced(took_s: float, ready_tokens: int, returns: int = LEAST_RETURNS, *, loads: bool = True) -> float:
    """The price after some requests lost 1,000 tokens each and had `ready_tokens` when they came back."""
    clock = FakeClock()
    price = RestorePrice(clock)
    price._prices.token_s = 1e-3
    engine = FakeEngine([])
    for request in range(returns):
        price.lost(request, 1000, engine)
        price._prices.token_s = 1e-3
        if loads:
            price.loads(request)
            price.loads(request)  # still waiting: its load began before
        clock.now_s += took_s
        price.returned(request, ready_tokens, engine)
    return price.lost_token_price


@pytest.mark.parametrize(
    ("took_s", "ready_tokens", "expected"),
    [
        (0.1, 1000, 0.1),  # a tenth of the second that computing would take
        (0.05, 500, 0.55),  # half is computed, half loaded at a tenth
        (5.0, 1000, 1.0),  # slower than computing: never above it
        (0.0, 0, 1.0),  # nothing was left to load
    ],
)
def test_a_lost_token_costs_its_load(took_s, ready_tokens, expected):
    assert priced(took_s, ready_tokens) == pytest.approx(expected)


def test_the_price_is_that_of_computing_until_enough_came_back():
    assert priced(0.1, 1000, LEAST_RETURNS - 1) == 1.0


def test_what_is_loaded_within_a_step_is_priced_as_computed():
    assert priced(0.0, 1000, loads=False) == 1.0


def past_priced(took_s: float, ready_tokens: int, returns: int = LEAST_RETURNS) -> float:
    """The price after some turns came back, 200 of their 1,000 tokens cached; 10 blocks of 16 tokens.

    A step takes 10 ms and all of it is fixed; a token takes 1 ms. So holding a load for 0.16 s costs a token.
    """
    clock = FakeClock()
    price = RestorePrice(clock)
    engine = FakeEngine([], num_blocks=10)
    session = SimpleNamespace(context_tokens=1009, num_turns=2, cached_blocks=12)
    for turn in range(returns):
        request = SimpleNamespace(num_prompt_tokens=1100, turn=turn)
        price.comes_back(id(request), session, request.num_prompt_tokens, engine)
        price.loads(id(request))
        clock.now_s += took_s
        price._prices.token_s = 1e-3
        price.returned(id(request), ready_tokens, engine)
    assert price.num_lost_pasts == returns
    assert price.lost_token_price == 1.0
    return price.lost_past_price


@pytest.mark.parametrize(
    ("took_s", "ready_tokens", "expected"),
    [
        (0.0, 1008, 0.0),  # all is loaded at once
        (0.04, 1008, 0.25),
        (0.04, 600, 0.625),  # half of what was lost is loaded
        (0.0, 192, 1.0),  # nothing is
        (9.0, 1008, 1.0),  # never above the cost of computing it
    ],
)
def test_a_lost_past_costs_the_memory_that_its_load_holds(took_s, ready_tokens, expected):
    assert past_priced(took_s, ready_tokens) == pytest.approx(expected)


def test_a_lost_past_is_free_until_enough_came_back():
    assert past_priced(9.0, 0, LEAST_RETURNS - 1) == 0.0


def test_requests_that_leave_are_forgotten():
    price = RestorePrice(FakeClock())
    price.lost("r", 100, FakeEngine([]))
    price.loads("r")
    price.left("r")
    price.returned("r", 100, FakeEngine([]))
    assert price.num_returns == 0
    assert not price._lost
    assert not price._loading_since_s


def test_the_engine_measures_what_comes_back_and_forgets_the_rest():
    case = random_case(1)
    _, scheduler = run_ours(case, "fair", engine={"kv_transfer": remote_store(load_steps=3)})
    restoring = scheduler.bidkv.glue.engine.restoring
    counters = scheduler.bidkv.controller.counters
    assert restoring.num_returns == counters.preemptions_by_policy + counters.preemptions_by_engine
    assert restoring.num_returns > LEAST_RETURNS
    assert not restoring._lost
    assert not restoring._loading_since_s
    assert 0.0 <= scheduler.bidkv.glue.engine.lost_token_price <= 1.0


def test_without_a_connector_nothing_is_measured():
    engine = build_ours(random_case(1), "fair").bidkv.glue.engine
    assert engine.restoring is None
    assert engine.lost_token_price == 1.0
