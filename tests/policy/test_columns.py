"""Policies that weigh every candidate in one loop choose whom their formula, asked one by one, would."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest

from bidkv.baselines import bidkv_utility
from bidkv.policy import least, resolve
from bidkv.policy.parts.columns import last_least
from bidkv.policy.published.sglang_rules import SlackAware
from bidkv.protocol.policy import EngineView, Figure
from bidkv.protocol.requests import RequestView


class OneByOne(FakeEngine):
    """An engine whose requests share a block."""

    def freed_blocks(self, request: RequestView) -> int:
        return max(0, request.num_held_blocks - 1)


class Together(OneByOne):
    """The same engine, which reads figures together."""

    asked: int = 0

    def column(self, requests: Sequence[Any], figure: str) -> list[int]:
        self.asked += 1
        if figure == "freed_blocks":
            return [self.freed_blocks(request) for request in requests]
        return [getattr(request, figure) for request in requests]


ENGINES = [Together, OneByOne]


@st.composite
def crowds(draw: st.DrawFn) -> list[FakeRequest]:
    """Few or many requests, of few distinct figures (ties) or of a wide range."""
    most = draw(st.sampled_from([3, 40, 5000]))
    return [
        FakeRequest(
            f"r{index}",
            num_prompt_tokens=draw(st.integers(1, most)),
            num_output_tokens=draw(st.integers(0, most)),
            num_computed_tokens=draw(st.integers(0, most)),
            max_tokens=draw(st.one_of(st.none(), st.integers(1, 2 * most))),
            num_preemptions=draw(st.sampled_from([0, 0, 0, 1, 2, 7])),
            num_held_blocks=draw(st.integers(0, most)),
            deadline_s=draw(st.sampled_from([None, 1.0, 2.0, 30.0])),
        )
        for index in range(draw(st.integers(1, 12)))
    ]


def bidkv_key(request: FakeRequest, engine: FakeEngine) -> float:
    private = engine.freed_blocks(request) * engine.block_size if engine.prefix_caching else 0
    done = request.num_output_tokens
    return -bidkv_utility(
        request.num_prompt_tokens + done, done, request.max_tokens or 0, request.num_preemptions, private
    )


def pr_56897_key(request: FakeRequest, engine: FakeEngine) -> float:
    done, cap = request.num_output_tokens, request.max_tokens
    budget = engine.num_blocks * engine.block_size - request.num_prompt_tokens if cap is None else cap
    share = engine.freed_blocks(request) / max(1, request.num_prompt_tokens + done)
    return -(share * (1.0 - done / max(1, budget)))


def most_remaining_key(request: FakeRequest, engine: FakeEngine) -> int:
    cap = request.max_tokens
    budget = engine.num_blocks * engine.block_size - request.num_prompt_tokens if cap is None else cap
    return request.num_output_tokens - budget


KEYS: dict[str, Callable[[FakeRequest, FakeEngine], Any]] = {
    "bidkv": bidkv_key,
    "largest-first": lambda request, engine: -request.num_computed_tokens,
    "lcf": lambda request, engine: request.num_computed_tokens,
    "most-remaining": most_remaining_key,
    "pr-56897": pr_56897_key,
    "sglang-default": lambda request, engine: (request.num_output_tokens, -request.num_prompt_tokens),
}


@given(requests=crowds(), prefix_caching=st.booleans())
@settings(deadline=None, max_examples=300)
def test_the_choice_is_the_formulas(requests: list[FakeRequest], prefix_caching: bool) -> None:
    for engine_class in ENGINES:
        engine = engine_class(requests, prefix_caching=prefix_caching)
        for name, key in KEYS.items():
            expected = least(requests, lambda request, key=key, engine=engine: key(request, engine))  # type: ignore[misc]
            chosen = resolve(name).select_victim(requests, 1, engine)
            assert chosen is expected, (name, engine_class.__name__)


@given(requests=crowds(), finished=st.lists(st.integers(0, 6000), max_size=8), now_s=st.floats(0, 50))
@settings(deadline=None, max_examples=200)
def test_the_choice_of_slack_aware(requests: list[FakeRequest], finished: list[int], now_s: float) -> None:
    def key(request: FakeRequest) -> tuple[float, float]:
        done, cap = request.num_output_tokens, request.max_tokens
        longer = [length for length in finished if not done or length.bit_length() > done.bit_length()]
        predicted = sum(longer) / len(longer) if longer else None
        if cap is not None:
            predicted = cap if predicted is None else min(predicted, cap)
        remaining = max(1.0, (done if predicted is None else predicted) - done)
        if request.deadline_s is None:
            return -math.inf, -remaining
        return -(request.deadline_s - now_s - remaining * (now_s / 100)), -remaining

    slack_s, remaining = key(requests[0])
    for engine_class in ENGINES:
        engine = engine_class(requests)
        policy = SlackAware()
        policy.on_arrival(requests[0], engine)
        for length in finished:
            policy.on_finish(FakeRequest("gone", num_output_tokens=length), engine, completed=True)
        engine.now_s, engine.num_steps = now_s, 100
        assert policy.select_victim(requests, 1, engine) is least(requests, key)  # type: ignore[arg-type]
        terms = policy.victim_terms(requests[0], engine)
        assert terms == {"slack_s": -slack_s, "remaining_tokens": -remaining}


@given(requests=crowds())
def test_a_column_is_the_same_read_together_or_one_by_one(requests: list[FakeRequest]) -> None:
    together, one_by_one = Together(requests), OneByOne(requests)
    figures: tuple[Figure, ...] = ("freed_blocks", "num_computed_tokens", "num_output_tokens")
    for figure in figures:
        views: tuple[EngineView, EngineView] = (together, one_by_one)
        first, second = (list(engine.column(requests, figure)) for engine in views)
        assert first == second
    assert together.asked == len(figures)


@given(keys=st.lists(st.integers(0, 3), min_size=1))
def test_of_equal_keys_the_later_goes(keys: list[int]) -> None:
    requests = [FakeRequest(str(key)) for key in keys]
    assert last_least(requests, keys) is least(requests, lambda request: int(request.request_id))
