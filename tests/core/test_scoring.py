import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.scoring import PositionalScoring, ScoringStrategy, build_bids

NAN, INF = float("nan"), float("inf")
unit = st.floats(0.0, 1.0)


def golden(values: Sequence[float]) -> Any:
    return pytest.approx(list(values), abs=5e-7)


# --- build_bids ----------------------------------------------------------------------------------
def test_no_tokens_no_bids_whatever_the_scores() -> None:
    assert build_bids("r", [], [0.5], [0.5], "a") == []


def test_lengths_must_match() -> None:
    with pytest.raises(ValueError, match=re.escape("scores length (2) must match token_ids length (3)")):
        build_bids("r", [1, 2, 3], [0.1, 0.2], [0.5], "a")


def test_bid_of_each_level() -> None:
    bids = build_bids(
        "r", [7] * 4, [0.9, 0.1, 0.5, 0.3], [0.5, 1.0], "alg", latency_factor=2.0, extra_metadata={"x": 1}
    )
    assert [b.bid_id for b in bids] == ["r:bid:0", "r:bid:1"]
    assert [b.tokens_freed for b in bids] == [2, 3]
    assert [b.quality_delta for b in bids] == golden([0.2, 0.3])
    assert [b.compress_latency_ms for b in bids] == [4.0, 6.0]
    assert [b.confidence for b in bids] == [0.5, 0.5]
    assert [b.metadata for b in bids] == [
        {"compression_level": 0.5, "x": 1},
        {"compression_level": 1.0, "x": 1},
    ]
    assert {b.algorithm_id for b in bids} == {"alg"}
    assert {b.request_id for b in bids} == {"r"}


def test_default_latency_factor() -> None:
    assert build_bids("r", [1] * 20, [0.5] * 20, [0.5], "a")[0].compress_latency_ms == pytest.approx(1.0)


def test_a_single_token_is_never_offered() -> None:
    assert build_bids("r", [1], [0.5], [0.1, 1.0], "a") == []


@pytest.mark.parametrize(("level", "freed"), [(-1.0, 1), (0.0, 1), (0.19, 1), (0.99, 9), (1.0, 9), (5.0, 9)])
def test_freed_stays_between_one_and_all_but_one(level: float, freed: int) -> None:
    assert build_bids("r", [1] * 10, [0.5] * 10, [level], "a")[0].tokens_freed == freed


def test_confidence_fn_is_called_once() -> None:
    calls: list[int] = []

    def confidence() -> float:
        calls.append(1)
        return 0.25

    bids = build_bids("r", [1, 2, 3], [0.1, 0.2, 0.3], [0.3, 0.6], "a", confidence_fn=confidence)
    assert [b.confidence for b in bids] == [0.25, 0.25]
    assert calls == [1]


def test_delta_is_clamped() -> None:
    assert build_bids("r", [1, 2], [5.0, 5.0], [0.5], "a")[0].quality_delta == 1.0
    assert build_bids("r", [1, 2], [-5.0, -5.0], [0.5], "a")[0].quality_delta == 0.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_scores_and_levels_must_be_finite(bad: float) -> None:
    with pytest.raises(ValueError, match=r"scores\[1\] must be finite"):
        build_bids("r", [1, 2], [0.5, bad], [0.5], "a")
    with pytest.raises(ValueError, match=r"compression_levels\[0\] must be finite"):
        build_bids("r", [1, 2], [0.5, 0.5], [bad], "a")


@given(scores=st.lists(unit, min_size=2, max_size=30), levels=st.lists(unit, max_size=5))
def test_bids_follow_the_definition(scores: list[float], levels: list[float]) -> None:
    n = len(scores)
    bids = build_bids("r", list(range(n)), scores, levels, "a")
    assert len(bids) == len(levels)  # with two tokens or more, every level frees something
    for index, (level, made) in enumerate(zip(levels, bids, strict=True)):
        freed = min(max(1, int(n * level)), n - 1)
        assert (made.bid_id, made.tokens_freed) == (f"r:bid:{index}", freed)
        assert made.quality_delta == pytest.approx(math.fsum(sorted(scores)[:freed]) / freed)


# --- PositionalScoring ---------------------------------------------------------------------------
def test_defaults_and_protocol() -> None:
    scoring = PositionalScoring()
    assert (scoring.heavy_ratio, scoring.recent_ratio, scoring.decode_steps) == (0.2, 0.2, 0)
    assert isinstance(scoring, ScoringStrategy)
    assert not isinstance(object(), ScoringStrategy)


@pytest.mark.parametrize("name", ["heavy_ratio", "recent_ratio", "decode_steps"])
def test_properties_are_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(PositionalScoring(), name, 0.5)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"heavy_ratio": -0.1}, "heavy_ratio must be in [0, 1]"),
        ({"heavy_ratio": 1.1}, "heavy_ratio must be in [0, 1]"),
        ({"heavy_ratio": NAN}, "heavy_ratio must be in [0, 1]"),
        ({"recent_ratio": -0.1}, "recent_ratio must be in [0, 1]"),
        ({"recent_ratio": 1.1}, "recent_ratio must be in [0, 1]"),
        ({"recent_ratio": NAN}, "recent_ratio must be in [0, 1]"),
        ({"heavy_ratio": 0.6, "recent_ratio": 0.5}, "heavy_ratio + recent_ratio must be <= 1.0"),
    ],
)
def test_ratios_are_checked(ratios: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PositionalScoring(**ratios)  # type: ignore[arg-type]


@given(st.integers(0, 100))
def test_ratios_that_add_up_to_one_in_decimals_are_accepted(percent: int) -> None:
    scoring = PositionalScoring(heavy_ratio=percent / 100, recent_ratio=(100 - percent) / 100)
    assert scoring.heavy_ratio == percent / 100


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, []),
        (1, [0.8]),
        (2, [0.8, 0.6]),
        (10, [0.8, 0.294304, 0.133333, 0.2, 0.266667, 0.333333, 0.4, 0.466667, 0.533333, 0.6]),
    ],
)
def test_positional_goldens(n: int, expected: list[float]) -> None:
    assert PositionalScoring().score(list(range(n))) == golden(expected)


def test_bid_goldens() -> None:
    bids = PositionalScoring().generate_bids("r", list(range(100)), [0.2, 0.4, 0.6, 0.8, 1.0, 0.0])
    assert [b.tokens_freed for b in bids] == [20, 40, 60, 80, 99, 1]
    assert [b.quality_delta for b in bids] == golden(
        [0.119079, 0.170041, 0.223347, 0.278074, 0.331444, 0.072727]
    )


def test_zero_attention_golden() -> None:
    scores = PositionalScoring().score(list(range(10)), attention_pattern=[0.0] * 10)
    assert scores == [0.7, 0.7, 0, 0, 0, 0, 0, 0, 0.6, 0.6]


def test_attention_is_normalized_and_floored() -> None:
    attention = [0.0, 4.0, 1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0]
    scores = PositionalScoring().score(list(range(10)), attention_pattern=attention)
    assert scores == [0.0, 1.0, 0.25, 0.25, 0.25, 0.7, 0.0, 0.0, 0.6, 0.6]


def test_equal_attention_favors_the_lower_index() -> None:
    scoring = PositionalScoring(heavy_ratio=0.2, recent_ratio=0.0)
    assert scoring.score(list(range(10)), attention_pattern=[0.0] * 10) == [0.7, 0.7, *[0.0] * 7, 0.6]


def test_longer_attention_uses_its_first_values() -> None:
    scores = PositionalScoring().score([1, 2], attention_pattern=[1.0, 2.0, 100.0])
    assert scores == [0.5, 1.0]


def test_shorter_attention_falls_back_to_position() -> None:
    scoring = PositionalScoring()
    assert scoring.score(list(range(10)), attention_pattern=[1.0] * 9) == PositionalScoring().score(range(10))
    assert scoring.decode_steps == 1


def test_negative_attention_scores_zero() -> None:
    scores = PositionalScoring().score(list(range(10)), attention_pattern=[0, 0, -1, 2, 2, 0, 0, 0, 0, 0])
    assert scores[2] == 0.0


def test_decode_steps_accumulate_and_extend() -> None:
    scoring = PositionalScoring()
    scoring.update_from_decode_step([])
    assert scoring.decode_steps == 0
    scoring.update_from_decode_step([1.0, 1.0])
    scoring.update_from_decode_step([1.0])
    scoring.update_from_decode_step([0.0, 0.0, 0.0, 1.0])
    assert scoring.decode_steps == 3
    assert scoring.score([1, 2, 3, 4]) == [1.0, 0.5, 0.0, 0.6]


def test_broken_attention_changes_nothing() -> None:
    scoring = PositionalScoring()
    with pytest.raises(ValueError, match=r"attention pattern\[1\] must be finite"):
        scoring.update_from_decode_step([1.0, NAN])
    assert scoring.decode_steps == 0
    assert scoring.score([1, 2]) == golden([0.8, 0.6])


def test_reset_forgets() -> None:
    scoring = PositionalScoring()
    scoring.update_from_decode_step([0.0] * 10)
    scoring.reset()
    assert scoring.decode_steps == 0
    assert scoring.score(range(10)) == PositionalScoring().score(range(10))


def test_confidence_and_metadata() -> None:
    scoring = PositionalScoring(heavy_ratio=0.1, recent_ratio=0.3, algorithm_id="mine")
    cold = scoring.generate_bids("r", [1, 2, 3], [0.5])[0]
    assert cold.confidence == 0.3
    for _ in range(3):
        warm = scoring.generate_bids("r", [1, 2, 3], [0.5], attention_pattern=[0.1, 0.2, 0.3])[0]
    assert warm.confidence == pytest.approx(0.638629, abs=5e-7)
    assert warm.algorithm_id == "mine"
    assert warm.metadata == {
        "compression_level": 0.5,
        "heavy_ratio": 0.1,
        "recent_ratio": 0.3,
        "decode_steps": 3,
        "scoring_method": "positional",
    }


def test_confidence_ends_at_one() -> None:
    scoring = PositionalScoring()
    for _ in range(200):
        scoring.update_from_decode_step([1.0])
    assert scoring.generate_bids("r", [1, 2], [0.5])[0].confidence == 1.0


@given(
    n=st.integers(1, 60),
    pattern=st.lists(st.floats(-1e3, 1e3), max_size=80),
    heavy=st.floats(0, 0.5),
    recent=st.floats(0, 0.5),
)
def test_scores_are_importances(n: int, pattern: list[float], heavy: float, recent: float) -> None:
    scoring = PositionalScoring(heavy_ratio=heavy, recent_ratio=recent)
    scores = scoring.score(list(range(n)), attention_pattern=pattern)
    assert len(scores) == n
    assert all(0.0 <= score <= 1.0 for score in scores)
