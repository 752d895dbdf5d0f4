import re
from dataclasses import FrozenInstanceError, astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.pressure import PressureConfig, PressureDetector

NAN = float("nan")


def detector(used: int, total: int, pending: int = 0, **config: float) -> PressureDetector:
    made = PressureDetector(PressureConfig(enabled=True, **config))  # type: ignore[arg-type]
    made.update_stats(used, total, pending)
    return made


def test_defaults() -> None:
    assert astuple(PressureConfig()) == (0.85, 512, False, None)
    with pytest.raises(FrozenInstanceError):
        PressureConfig().enabled = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold_pct": 0.0}, "threshold_pct must be in (0.0, 1.0]"),
        ({"threshold_pct": 1.01}, "threshold_pct must be in (0.0, 1.0]"),
        ({"threshold_pct": NAN}, "threshold_pct must be in (0.0, 1.0]"),
        ({"min_free_tokens": -1}, "min_free_tokens must be >= 0"),
        ({"release_pct": 0.0}, "release_pct must be in (0.0, threshold_pct]"),
        ({"release_pct": 0.9}, "release_pct must be in (0.0, threshold_pct]"),
    ],
)
def test_config_rejects_bad_values(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PressureConfig(**values)  # type: ignore[arg-type]


def test_disabled_by_default() -> None:
    made = PressureDetector()
    made.update_stats(100, 100, 1)
    assert made.is_under_pressure() is False
    made.set_enabled(True)
    assert made.is_under_pressure() is True
    made.set_enabled(False)
    assert made.is_under_pressure() is False


@pytest.mark.parametrize("total", [0, -5])
def test_an_unknown_size_is_no_pressure(total: int) -> None:
    made = detector(50, total, 1)
    assert made.is_under_pressure() is False
    assert made.needed_tokens() == 0


@pytest.mark.parametrize(
    ("used", "pending", "pressed", "needed"),
    [
        (8_499, 0, False, 0),
        (8_500, 0, True, 0),
        (9_000, 0, True, 500),
        (8_000, 1, False, 0),
        (9_600, 0, True, 1_100),
        (9_600, 1, True, 1_100),
    ],
)
def test_threshold(used: int, pending: int, pressed: bool, needed: int) -> None:
    made = detector(used, 10_000, pending)
    assert made.is_under_pressure() is pressed
    assert made.needed_tokens() == needed


@pytest.mark.parametrize(
    ("used", "pending", "pressed", "needed"),
    [(488, 1, False, 0), (489, 1, True, 1), (489, 0, False, 0), (700, 2, True, 212), (800, 2, True, 312)],
)
def test_high_priority_needs_free_tokens(used: int, pending: int, pressed: bool, needed: int) -> None:
    made = detector(used, 1_000, pending)
    assert made.is_under_pressure() is pressed
    assert made.needed_tokens() == needed


def test_the_larger_need_counts() -> None:
    assert detector(990, 1_000, 1, threshold_pct=0.5, min_free_tokens=100).needed_tokens() == 490
    assert detector(990, 1_000, 1, threshold_pct=0.9, min_free_tokens=512).needed_tokens() == 502


def test_kv_stats() -> None:
    assert detector(30, 100, 2).get_kv_stats() == {
        "used_tokens": 30,
        "max_tokens": 100,
        "free_tokens": 70,
        "pending_high_priority": 2,
    }
    assert detector(130, 100).get_kv_stats()["free_tokens"] == 0
    assert set(PressureDetector().get_kv_stats().values()) == {0}


@pytest.mark.parametrize(
    ("used", "pending", "message"),
    [(-1, 0, "used_tokens must be >= 0"), (1, -1, "pending_high_priority must be >= 0")],
)
def test_negative_figures_are_rejected_and_change_nothing(used: int, pending: int, message: str) -> None:
    made = detector(30, 100)
    with pytest.raises(ValueError, match=message):
        made.update_stats(used, 100, pending)
    assert made.get_kv_stats()["used_tokens"] == 30


def test_hysteresis_holds_until_release() -> None:
    made = PressureDetector(PressureConfig(threshold_pct=0.8, enabled=True, release_pct=0.6))
    seen = []
    for used in (70, 80, 70, 60, 59, 70, 85):
        made.update_stats(used, 100)
        seen.append((made.is_under_pressure(), made.needed_tokens()))
    assert seen == [(False, 0), (True, 20), (True, 10), (True, 0), (False, 0), (False, 0), (True, 25)]


def test_without_hysteresis_pressure_ends_at_the_threshold() -> None:
    made = detector(90, 100)
    made.update_stats(84, 100)
    assert made.is_under_pressure() is False


@given(
    used=st.integers(0, 5_000),
    total=st.integers(1, 4_000),
    pending=st.integers(0, 2),
    threshold=st.sampled_from([0.29, 0.5, 0.85, 1.0]),
    min_free=st.integers(0, 600),
)
def test_freeing_what_is_needed_leaves_at_most_the_threshold(
    used: int, total: int, pending: int, threshold: float, min_free: int
) -> None:
    made = detector(used, total, pending, threshold_pct=threshold, min_free_tokens=min_free)
    needed = made.needed_tokens()
    left = used - needed
    assert needed >= 0
    assert left <= total * threshold
    assert pending == 0 or total - left >= min_free
    if needed:
        assert made.is_under_pressure()
