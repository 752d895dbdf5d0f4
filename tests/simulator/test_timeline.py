from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.simulator.timeline import TimelineRecorder


@given(limit=st.integers(2, 50), steps=st.integers(1, 2000))
def test_a_timeline_is_bounded_and_evenly_thinned(limit: int, steps: int) -> None:
    recorder = TimelineRecorder(limit)
    for step in range(1, steps + 1):
        recorder.offer(step, (float(step), 0, 0, 0, 0))
    kept = [int(point.time_s) for point in recorder.points]
    assert kept[0] == 1
    assert 1 <= len(kept) <= limit
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert not gaps or max(gaps) < 2 * min(gaps)
    if steps < limit:
        assert kept == list(range(1, steps + 1))


def test_a_timeline_needs_room_for_two() -> None:
    with pytest.raises(ValueError, match="room for at least 2 points, got 1"):
        TimelineRecorder(1)
