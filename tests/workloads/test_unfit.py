"""Requests that fit no cache are reported, and only they are left out."""

import pytest

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import leave_out_unfit


def request(name: str, prompt: int, output: int) -> WorkloadRequest:
    return WorkloadRequest(name, 0.0, prompt, output)


def test_the_bound_is_the_whole_cache():
    requests = [request("a", 150, 10), request("b", 150, 11), request("c", 1, 1), request("d", 900, 1)]
    kept, report = leave_out_unfit(iter(requests), usable_blocks=10, block_size=16)
    assert [r.request_id for r in kept] == ["a", "c"]
    assert (report.kept, report.left_out, report.largest_blocks, report.examples) == (2, 2, 57, ["b", "d"])
    assert str(report) == (
        "left out 2 of 4 requests: the largest needs 57 blocks of 16 tokens, and there are 10 (first: b, d)"
    )


def test_it_streams_and_names_only_a_few():
    def endless():
        index = 0
        while True:
            yield request(f"r{index}", 100 if index % 7 else 1, 1)
            index += 1

    kept, report = leave_out_unfit(endless(), usable_blocks=1, block_size=16)
    assert [next(kept).request_id for _ in range(3)] == ["r0", "r7", "r14"]
    assert report.left_out == 12
    assert report.examples == ["r1", "r2", "r3", "r4", "r5"]


def test_nothing_left_out_is_said():
    kept, report = leave_out_unfit([request("a", 1, 1)], usable_blocks=1, block_size=16)
    assert len(list(kept)) == 1
    assert str(report) == "all 1 requests fit in 1 blocks"


@pytest.mark.parametrize(("usable_blocks", "block_size"), [(0, 16), (10, 0)])
def test_a_cache_needs_blocks(usable_blocks, block_size):
    with pytest.raises(ValueError, match="at least 1"):
        leave_out_unfit([], usable_blocks, block_size)
