"""The room that cold turns leave for the growth of resident sessions."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace

import pytest

from bidkv.policy.own.sessions_growth import GrowthRoom


def _room(members: list[tuple[float, int]], price: float, *, more_blocks: int = 0) -> GrowthRoom:
    ascending = [(index, SimpleNamespace(exclusive_blocks=blocks)) for index, blocks in members]
    retained = sum(blocks for _, blocks in members) + more_blocks
    return GrowthRoom(ascending, price, retained)  # type: ignore[arg-type]


def test_growth_of_sessions_worth_far_more_than_the_price_gets_all_its_room() -> None:
    assert _room([(1.0, 10), (2.0, 10)], 0.0).room(15.0) == 15.0
    assert _room([(1.0, 10), (2.0, 10)], 1e-3).room(15.0) == pytest.approx(15.0, rel=2e-3)


def test_no_room_is_kept_for_what_is_not_worth_its_price() -> None:
    assert _room([(0.1, 10), (0.2, 10)], 0.2).room(15.0) == 0.0
    assert _room([(0.1, 10), (0.2, 10)], inf).room(15.0) == 0.0
    assert _room([], 0.0).room(15.0) == 0.0


def test_never_more_room_than_idle_sessions_hold() -> None:
    assert _room([(1.0, 10), (2.0, 10)], 0.0).room(100.0) == 20.0
    assert _room([(1.0, 10), (2.0, 10)], 0.0, more_blocks=30).room(100.0) == 50.0


def test_growth_takes_the_cheapest_sessions_and_counts_by_what_they_gain() -> None:
    room = _room([(0.1, 10), (0.2, 10), (0.4, 10)], 0.1)
    assert room.room(10.0) == 0.0
    assert room.room(16.0) == pytest.approx(6 * 0.5)
    assert room.room(26.0) == pytest.approx(10 * 0.5 + 6 * 0.75)
    # The sessions that were not looked at are worth at least as much as the last one that was.
    assert _room([(0.1, 10), (0.2, 10)], 0.1, more_blocks=10).room(30.0) == pytest.approx(20 * 0.5)


def test_dropped_sessions_are_no_longer_there_to_be_taken() -> None:
    members = [(0.1, 10), (0.2, 10), (0.4, 10)]
    whole = _room(members, 0.1)
    for gone in range(4):
        left = _room(members[gone:], 0.1)
        assert whole.room(16.0, num_dropped=gone) == pytest.approx(left.room(16.0))
