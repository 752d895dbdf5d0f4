"""A longer workload: the same gaps and lengths, from another place every time."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import repeat_for
from bidkv.workloads.traces import read_trace

TRACE = list(islice(read_trace("mooncake-conv"), 500))
SPAN_S = TRACE[-1].arrival_s - TRACE[0].arrival_s


def test_the_first_pass_is_the_workload() -> None:
    # One that ends at the last arrival leaves that one out.
    assert list(repeat_for(TRACE, SPAN_S, seed=3)) == [
        r for r in TRACE if r.arrival_s - TRACE[0].arrival_s < SPAN_S
    ]


def test_later_passes_keep_rate_lengths_and_gaps_and_start_elsewhere() -> None:
    long = list(repeat_for(TRACE, 8.5 * SPAN_S, seed=1))
    assert len(long) == pytest.approx(8.5 * 500, rel=0.05)
    assert len({request.request_id for request in long}) == len(long)
    assert all(before.arrival_s <= after.arrival_s for before, after in pairwise(long))
    assert long[-1].arrival_s - long[0].arrival_s < 8.5 * SPAN_S
    passes = [long[number * 500 : (number + 1) * 500] for number in range(8)]
    lengths = [[(r.prompt_tokens, r.output_tokens) for r in one] for one in passes]
    assert all(sorted(one) == sorted(lengths[0]) for one in lengths)
    assert len({tuple(one) for one in lengths}) == 8
    assert long[500].prompt_tokens != TRACE[0].prompt_tokens


def test_prefixes_are_shared_within_a_pass_only() -> None:
    long = list(repeat_for(TRACE, 3.0 * SPAN_S, seed=1))
    ids = [{hash_id for r in long[n * 500 : (n + 1) * 500] for hash_id in r.hash_ids} for n in range(2)]
    assert len(ids[0]) == len(ids[1])
    assert not ids[0] & ids[1]


def test_the_seed_decides_where_a_pass_starts() -> None:
    one, same, other = (list(repeat_for(TRACE, 2.0 * SPAN_S, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one[:500] == other[:500]
    assert one != other


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan")])
def test_no_duration_is_an_error(duration_s: float) -> None:
    with pytest.raises(ValueError, match="above 0 s"):
        repeat_for(TRACE, duration_s, seed=0)


@pytest.mark.parametrize("requests", [[], TRACE[:1], [WorkloadRequest(n, 0.0, 5, 5) for n in "ab"]])
def test_what_has_no_span_is_an_error(requests: list[WorkloadRequest]) -> None:
    with pytest.raises(ValueError, match="different times"):
        repeat_for(requests, 10.0, seed=0)
