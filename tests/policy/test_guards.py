from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import FakeRequest

from bidkv.control.guards import CircuitBreaker, PreemptionCap


@given(limit=st.integers(1, 5), preempted=st.lists(st.integers(0, 8), max_size=10))
def test_a_cap_keeps_those_below_it_in_order(limit: int, preempted: list[int]) -> None:
    requests = [FakeRequest(f"r{i}", num_preemptions=count) for i, count in enumerate(preempted)]
    eligible = PreemptionCap(limit).eligible(requests)
    assert eligible == [r for r in requests if r.num_preemptions < limit]
    assert eligible is not requests


@given(
    limit=st.none() | st.integers(1, 40),
    preempted=st.lists(st.integers(0, 40), max_size=10),
    more=st.integers(0, 3),
)
def test_a_bound_on_all_counts_changes_no_answer(limit: int | None, preempted: list[int], more: int) -> None:
    requests = [FakeRequest(f"r{i}", num_preemptions=count) for i, count in enumerate(preempted)]
    cap = PreemptionCap(limit)
    assert cap.eligible(requests, max(preempted, default=0) + more) == cap.eligible(requests)


@pytest.mark.parametrize(
    ("preemptions", "generated", "expected"),
    [(31, 0, True), (32, 0, False), (32, 15, False), (32, 16, True), (62, 480, False), (61, 480, True)],
)
def test_without_a_cap_progress_is_the_bound(preemptions: int, generated: int, expected: bool) -> None:
    request = FakeRequest("r", num_preemptions=preemptions, num_output_tokens=generated)
    assert PreemptionCap(None).eligible([request]) == ([request] if expected else [])


@pytest.mark.parametrize("limit", [0, -3])
def test_a_cap_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"preemption cap must be >= 1 or None, got {limit}"):
        PreemptionCap(limit)


def test_a_breaker_opens_once_counts_by_kind_and_logs_once(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker()
    with caplog.at_level(logging.ERROR, logger="bidkv"):
        breaker.trip("p", "exception", "first")
        breaker.trip("p", "exception", "second")
        breaker.trip("p", "time_budget", "third")
        assert (breaker.is_open, breaker.reason) == (True, "exception: first")
        assert breaker.failures == {"exception": 2, "time_budget": 1}
        assert len(caplog.records) == 1
        assert "'p' is switched off" in caplog.text
        breaker.close()
        assert (breaker.is_open, breaker.reason) == (False, "")
        breaker.trip("p", "invalid_answer", "fourth")
    assert len(caplog.records) == 2
    assert breaker.failures == {"exception": 2, "time_budget": 1, "invalid_answer": 1}
