import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.baselines import (
    BaselineContext,
    BaselineRegistry,
    BaselineStrategy,
    BidKVStrategy,
    CompressionAction,
    LargestFirstStrategy,
    PreemptEvictSJFStrategy,
    PreemptEvictStrategy,
    RequestState,
    StaticRandomStrategy,
    bidkv_disruption,
    bidkv_utility,
    compressible_tokens,
)
from bidkv.scoring import PositionalScoring

NAN, INF = float("nan"), float("inf")
FIVE = {
    "preempt-evict": PreemptEvictStrategy,
    "preempt-evict-sjf": PreemptEvictSJFStrategy,
    "static-random": StaticRandomStrategy,
    "largest-first": LargestFirstStrategy,
    "bidkv": BidKVStrategy,
}


def request(request_id: str, tokens: int, **fields: Any) -> RequestState:
    return RequestState(request_id, tokens, **fields)


def victims(actions: Sequence[CompressionAction]) -> list[tuple[str, str, int]]:
    return [(action.request_id, action.action_type, action.target_tokens) for action in actions]


class FixedScoring:
    """Gives every sequence the same scores, cut to its length."""

    def __init__(self, *scores: float) -> None:
        self._scores = scores

    def score(self, token_ids: Sequence[int], **context: Any) -> list[float]:
        return list(self._scores[: len(token_ids)])


# --- shapes --------------------------------------------------------------------------------------
def test_request_state_defaults() -> None:
    state = RequestState("r", 5)
    assert astuple(state) == ("r", 5, 0.0, 0.0, None, (), 0, 0, 0, 0, 0.0)
    with pytest.raises(FrozenInstanceError):
        state.priority = 1.0  # type: ignore[misc]


def test_action() -> None:
    action = CompressionAction("r", "evict", 5)
    assert action.metadata == {}
    assert CompressionAction("r", "compress", 5, {"k": 1}).metadata == {"k": 1}
    with pytest.raises(FrozenInstanceError):
        action.target_tokens = 1  # type: ignore[misc]


@pytest.mark.parametrize("action_type", ["", "EVICT", "drop", None])
def test_action_type_is_checked(action_type: Any) -> None:
    with pytest.raises(ValueError, match="action_type must be 'evict' or 'compress'"):
        CompressionAction("r", action_type, 5)


@pytest.mark.parametrize("target", [0, -1, NAN])
def test_action_target_is_checked(target: Any) -> None:
    with pytest.raises(ValueError, match="target_tokens must be > 0"):
        CompressionAction("r", "evict", target)


def test_context_protocol_is_checked_at_runtime() -> None:
    class Context:
        def get_active_requests(self) -> Sequence[RequestState]:
            return []

        def get_kv_stats(self) -> Mapping[str, int]:
            return {}

    assert isinstance(Context(), BaselineContext)
    assert not isinstance(object(), BaselineContext)


def test_strategy_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaselineStrategy()  # type: ignore[abstract]


# --- what all five share -------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "strategy_class"), FIVE.items())
def test_names(name: str, strategy_class: type[BaselineStrategy]) -> None:
    assert strategy_class().name == name


@pytest.mark.parametrize("strategy_class", FIVE.values())
@pytest.mark.parametrize("needed", [0, -7])
def test_no_need_no_victims(strategy_class: type[BaselineStrategy], needed: int) -> None:
    assert strategy_class().select_victims([request("a", 50)], needed) == []


@pytest.mark.parametrize("strategy_class", FIVE.values())
def test_no_candidates_no_victims(strategy_class: type[BaselineStrategy]) -> None:
    assert strategy_class().select_victims([], 10) == []


candidates = st.lists(
    st.builds(
        RequestState,
        request_id=st.uuids().map(str),
        current_tokens=st.integers(0, 300),
        priority=st.integers(-2, 2).map(float),
        token_ids=st.lists(st.integers(0, 9), max_size=40).map(tuple),
        num_prompt_tokens=st.integers(0, 200),
        max_output_tokens=st.integers(0, 200),
        num_preemptions=st.integers(0, 4),
        private_tokens=st.floats(0, 300),
    ),
    max_size=10,
    unique_by=lambda state: state.request_id,
)


@given(candidates, st.integers(1, 1_500), st.sampled_from(sorted(FIVE)))
def test_every_strategy_chooses_candidates_once_and_stops_when_enough(
    states: list[RequestState], needed: int, name: str
) -> None:
    before = list(states)
    actions = FIVE[name]().select_victims(states, needed, extra="ignored")
    chosen = [action.request_id for action in actions]
    assert states == before
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {state.request_id for state in states}
    assert sum(action.target_tokens for action in actions[:-1]) < needed
    assert {action.metadata["strategy"] for action in actions} <= {name}


# --- preempt-evict, preempt-evict-sjf ------------------------------------------------------------
@pytest.mark.parametrize("name", ["preempt-evict", "preempt-evict-sjf"])
def test_preempt_evict_by_priority_and_stable(name: str) -> None:
    states = [
        request("late", 10, priority=2.0),
        request("tie1", 20, priority=1.0),
        request("tie2", 30, priority=1.0),
        request("first", 5, priority=-1.0),
    ]
    actions = FIVE[name]().select_victims(states, 26)
    assert victims(actions) == [("first", "evict", 5), ("tie1", "evict", 20), ("tie2", "evict", 30)]
    assert [action.metadata for action in actions] == [
        {"strategy": name, "priority": -1.0},
        {"strategy": name, "priority": 1.0},
        {"strategy": name, "priority": 1.0},
    ]


def test_preempt_evict_takes_all_when_all_is_not_enough() -> None:
    states = [request("a", 10), request("nothing", 0), request("b", 1)]
    assert victims(PreemptEvictStrategy().select_victims(states, 999)) == [
        ("a", "evict", 10),
        ("b", "evict", 1),
    ]


# --- static-random -------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, NAN])
def test_static_random_ratio_is_checked(ratio: float) -> None:
    with pytest.raises(ValueError, match=re.escape("compression_ratio must be in (0, 1]")):
        StaticRandomStrategy(compression_ratio=ratio)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_static_random_shuffles_a_copy_with_its_seed(seed: int, size: int) -> None:
    states = [request(f"r{i}", 10 + i) for i in range(size)]
    generator = random.Random(seed)
    strategy = StaticRandomStrategy(seed=seed)
    for _ in range(2):
        expected = list(states)
        generator.shuffle(expected)
        actions = strategy.select_victims(states, 10_000)
        assert victims(actions) == [
            (state.request_id, "compress", state.current_tokens // 2) for state in expected
        ]


def test_static_random_target_and_stop() -> None:
    strategy = StaticRandomStrategy(compression_ratio=0.25, seed=1)
    assert victims(strategy.select_victims([request("a", 3)], 9)) == [("a", "compress", 1)]
    assert len(strategy.select_victims([request(f"r{i}", 40) for i in range(9)], 21)) == 3
    full = StaticRandomStrategy(compression_ratio=1.0)
    assert victims(full.select_victims([request("a", 7)], 9)) == [("a", "compress", 7)]


# --- largest-first -------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, NAN])
def test_largest_first_ratio_is_checked(ratio: float) -> None:
    with pytest.raises(ValueError, match=re.escape("compressible_ratio must be in (0, 1]")):
        LargestFirstStrategy(compressible_ratio=ratio)


def test_largest_first_descending_stable_and_only_what_is_needed() -> None:
    states = [request("one", 1), request("s", 10), request("tie1", 100), request("tie2", 100)]
    actions = LargestFirstStrategy().select_victims(states, 100)
    assert victims(actions) == [("tie1", "compress", 60), ("tie2", "compress", 40)]
    assert [action.metadata for action in actions] == [
        {"strategy": "largest-first", "estimated_quality_delta": 0.6, "compressible_tokens": 60},
        {"strategy": "largest-first", "estimated_quality_delta": 0.4, "compressible_tokens": 60},
    ]


def test_largest_first_takes_only_unimportant_tokens_of_requests_that_show_them() -> None:
    strategy = LargestFirstStrategy(scoring=FixedScoring(0.9, 0.1, 0.5, 0.3, 0.4, 0.8))
    hidden = request("hidden", 4)
    shown = request("shown", 6, token_ids=(1, 2, 3, 4, 5, 6))
    actions = strategy.select_victims([hidden, shown], 99)
    assert victims(actions) == [("shown", "compress", 3), ("hidden", "compress", 2)]
    assert actions[0].metadata["estimated_quality_delta"] == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    assert actions[1].metadata["estimated_quality_delta"] == 0.5


def test_largest_first_passes_over_requests_without_unimportant_tokens() -> None:
    strategy = LargestFirstStrategy(scoring=FixedScoring(0.5, 0.9, 1.0))
    assert strategy.select_victims([request("r", 3, token_ids=(1, 2, 3))], 5) == []


def test_largest_first_scores_by_position_by_default() -> None:
    state = request("r", 100, token_ids=tuple(range(100)))
    low = sum(1 for score in PositionalScoring().score(state.token_ids) if score < 0.5)
    actions = LargestFirstStrategy(compressible_ratio=1.0).select_victims([state], 10_000)
    assert victims(actions) == [("r", "compress", low)]
    assert 0 < low < 100


@pytest.mark.parametrize(
    ("tokens", "ratio", "scores", "expected"),
    [(10, 0.6, (), 6), (1, 0.6, (), 1), (10, 0.6, (0.1, 0.49, 0.5), 2), (10, 0.6, (0.1,) * 10, 6)],
)
def test_compressible_tokens(tokens: int, ratio: float, scores: tuple[float, ...], expected: int) -> None:
    assert compressible_tokens(tokens, ratio, scores) == expected


# --- bidkv ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [-0.1, NAN, INF])
def test_bidkv_budget_is_checked(budget: float) -> None:
    with pytest.raises(ValueError, match=re.escape("delta_budget must be >= 0.0")):
        BidKVStrategy(delta_budget=budget)


def test_bidkv_keeps_what_compressing_adapters_need() -> None:
    scoring = FixedScoring(0.5)
    assert BidKVStrategy(scoring=scoring, delta_budget=0.3).scoring is scoring
    assert BidKVStrategy(delta_budget=0.3).delta_budget == 0.3
    assert isinstance(BidKVStrategy().scoring, PositionalScoring)
    assert BidKVStrategy().delta_budget == 0.15


@pytest.mark.parametrize(
    ("generated", "cap", "preemptions", "private", "expected"),
    [
        (0, 100, 0, 0.0, 1.0),
        (50, 100, 0, 0.0, 1.25),
        (500, 100, 0, 0.0, 1.5),
        (50, 0, 0, 0.0, 1.0),
        (0, 100, 3, 0.0, 1.9),
        (50, 100, 2, 0.0, 1.85),
        (0, 100, 0, 16.0, 0.5),
        (0, 100, 0, 128.0, 0.5),
        (0, 100, 0, 512.0, 2.0),
        (50, 100, 2, 512.0, 2.85),
        (0, 0, 0, 0.25, 0.5),
    ],
)
def test_disruption(generated: int, cap: int, preemptions: int, private: float, expected: float) -> None:
    assert bidkv_disruption(generated, cap, preemptions, private) == pytest.approx(expected)


def test_utility() -> None:
    assert bidkv_utility(800, 50, 100, 1) == 800 / (1.55 + 1e-3)
    assert bidkv_utility(800, 50, 100, 1, 512.0) == pytest.approx(512 / (2.55 + 1e-3))


def test_bidkv_evicts_by_falling_utility() -> None:
    states = [
        request("nearly-done", 200, num_prompt_tokens=100, max_output_tokens=100),
        request("fresh", 200, num_prompt_tokens=200, max_output_tokens=100),
        request("tie", 200, num_prompt_tokens=200, max_output_tokens=100),
        request("preempted", 200, num_prompt_tokens=200, max_output_tokens=100, num_preemptions=2),
        request("one", 1),
    ]
    actions = BidKVStrategy().select_victims(states, 10_000)
    assert victims(actions) == [
        ("fresh", "evict", 200),
        ("tie", "evict", 200),
        ("nearly-done", "evict", 200),
        ("preempted", "evict", 200),
    ]
    assert actions[2].metadata == {
        "strategy": "bidkv",
        "bid_id": "nearly-done:bid:0",
        "quality_delta": 1.5,
        "utility": 200 / 1.501,
    }
    assert len(BidKVStrategy().select_victims(states, 201)) == 2


def test_bidkv_counts_only_what_is_really_freed() -> None:
    shared = request("shared", 1_000, num_prompt_tokens=1_000, private_tokens=64.9)
    alone = request("alone", 300, num_prompt_tokens=300)
    actions = BidKVStrategy().select_victims([shared, alone], 350)
    assert victims(actions) == [("alone", "evict", 300), ("shared", "evict", 64)]
    assert actions[1].metadata["utility"] == pytest.approx(64.9 / 0.501)


def test_bidkv_frees_at_least_one_token() -> None:
    assert victims(BidKVStrategy().select_victims([request("r", 9, private_tokens=0.5)], 5)) == [
        ("r", "evict", 1)
    ]


def test_bidkv_with_an_unknown_prompt_length_counts_nothing_negative() -> None:
    state = request("r", 50, num_prompt_tokens=80, max_output_tokens=10)
    assert BidKVStrategy().select_victims([state], 5)[0].metadata["quality_delta"] == 1.0


# --- registry ------------------------------------------------------------------------------------
def test_registry_starts_empty_and_fills_in_place() -> None:
    registry = BaselineRegistry()
    assert (registry.count, registry.list_strategies()) == (0, [])
    registry.create_default_registry()
    assert registry.list_strategies() == sorted(FIVE)
    assert registry.count == 5
    for name, strategy_class in FIVE.items():
        assert type(registry.get(name)) is strategy_class


def test_default_registry_leaves_taken_names_alone() -> None:
    registry = BaselineRegistry()
    mine = StaticRandomStrategy(seed=7)
    registry.register(mine)
    registry.create_default_registry()
    registry.create_default_registry()
    assert registry.get("static-random") is mine
    assert registry.count == 5


def test_registry_takes_further_strategies_and_refuses_taken_names() -> None:
    class Mine(PreemptEvictStrategy):
        @property
        def name(self) -> str:
            return "mine"

    registry = BaselineRegistry()
    registry.create_default_registry()
    registry.register(Mine())
    assert registry.count == 6
    with pytest.raises(ValueError, match="Strategy 'mine' already registered"):
        registry.register(Mine())


def test_unknown_name_lists_what_exists() -> None:
    registry = BaselineRegistry()
    with pytest.raises(KeyError, match=r"Strategy 'x' not found\. Available: none"):
        registry.get("x")
    registry.register(PreemptEvictStrategy())
    registry.register(BidKVStrategy())
    with pytest.raises(KeyError, match=r"Strategy 'x' not found\. Available: bidkv, preempt-evict"):
        registry.get("x")
