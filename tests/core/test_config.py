import re
from dataclasses import FrozenInstanceError, astuple

import pytest

from bidkv.config import BidKVConfig

NAN, INF = float("nan"), float("inf")


def test_defaults() -> None:
    assert astuple(BidKVConfig()) == (False, False, 1.0, 0, 0.5)


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        BidKVConfig().enabled = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("enabled", "kill_switch", "active"),
    [(False, False, False), (True, False, True), (True, True, False), (False, True, False)],
)
def test_is_active(enabled: bool, kill_switch: bool, active: bool) -> None:
    assert BidKVConfig(enabled=enabled, kill_switch=kill_switch).is_active is active


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("delta_budget", -0.01, "delta_budget must be >= 0.0"),
        ("delta_budget", NAN, "delta_budget must be >= 0.0"),
        ("delta_budget", INF, "delta_budget must be >= 0.0"),
        ("max_bids_per_solve", -1, "max_bids_per_solve must be >= 0"),
        ("truncation_ratio", -0.1, "truncation_ratio must be in [0.0, 1.0]"),
        ("truncation_ratio", 1.1, "truncation_ratio must be in [0.0, 1.0]"),
        ("truncation_ratio", NAN, "truncation_ratio must be in [0.0, 1.0]"),
    ],
)
def test_rejects_bad_values(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BidKVConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("delta_budget", 0.0), ("delta_budget", 7.5), ("truncation_ratio", 0.0), ("truncation_ratio", 1.0)],
)
def test_accepts_the_edges(field: str, value: float) -> None:
    assert getattr(BidKVConfig(**{field: value}), field) == value
