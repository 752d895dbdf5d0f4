"""Other days like a trace's: what stays, and what chance changes."""

from __future__ import annotations

import pytest

from bidkv.planning.resampling import join_stretches, resample
from bidkv.protocol.requests import WorkloadRequest


def _trace(number: int) -> list[WorkloadRequest]:
    """A request every second, in the middle third ten a second; each has a length of its own."""
    requests, now_s = [], 0.0
    for index in range(number):
        now_s += 0.1 if number / 3 <= index < 2 * number / 3 else 1.0
        requests.append(WorkloadRequest(f"r{index}", now_s, index + 1, 5))
    return requests


def test_a_joined_request_keeps_its_gap_and_gets_an_id_of_its_own() -> None:
    trace = _trace(30)
    joined = join_stretches(trace, (range(9, 12), range(9, 12), range(2)))
    assert [r.prompt_tokens for r in joined] == [10, 11, 12, 10, 11, 12, 1, 2]
    assert [r.arrival_s for r in joined] == pytest.approx([1.0, 1.1, 1.2, 2.2, 2.3, 2.4, 3.4, 4.4])
    assert len({r.request_id for r in joined}) == 8
    assert join_stretches([], ()) == []


def test_a_resampled_day_is_as_busy_at_the_same_hours_with_other_requests() -> None:
    trace = _trace(6000)
    day, other = resample(trace, 1), resample(trace, 2)
    assert day == resample(trace, 1) != other
    for found in (day, other):
        assert len(found) == 6000
        lengths = [r.prompt_tokens for r in found]
        # Some stretches come twice or more, others not at all.
        assert 0.5 * 6000 < len(set(lengths)) < 0.8 * 6000
        assert all(abs(length - place) <= 500 for place, length in enumerate(lengths, start=1))
        busy, quiet = found[2500:3500], found[:1500]
        assert 999 / (busy[-1].arrival_s - busy[0].arrival_s) == pytest.approx(10.0)
        assert 1499 / (quiet[-1].arrival_s - quiet[0].arrival_s) == pytest.approx(1.0)


def test_a_short_trace_is_resampled_in_short_stretches() -> None:
    assert len(resample(_trace(40), 3)) == 40
    assert resample([], 3) == []
    assert len(resample(_trace(1), 3)) == 1
