"""Records can be handed out one by one instead of being kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.support import requests_of, steady_profile

from bidkv.policy import resolve
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RequestRecord
from bidkv.simulator import EngineConfig, simulate

CONFIG = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)


@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_a_sink_gets_what_the_result_would_hold(backend: str) -> None:
    requests = requests_of((5, 9), (44, 3), (90, 1), (3, 7))  # the third is rejected
    kept = simulate(requests, resolve("fair"), CONFIG, steady_profile(), backend=backend)  # type: ignore[arg-type]
    taken: list[RequestRecord] = []
    told: list[int] = []
    streamed = simulate(
        requests * 1,
        resolve("fair"),
        CONFIG,
        steady_profile(),
        backend=backend,  # type: ignore[arg-type]
        on_record=taken.append,
        progress=lambda count, _now_s: told.append(count),
    )
    assert taken == kept.records
    assert streamed.records == []
    assert replace(streamed, records=kept.records, wall_s=kept.wall_s) == kept


# The compiled engine takes input in chunks of 4,096 requests.
@pytest.mark.parametrize(("backend", "few"), [("python", 2_000), ("compiled", 5_000)])
def test_memory_does_not_grow_with_the_number_of_requests(backend: str, few: int) -> None:
    def stream(count: int) -> Iterator[WorkloadRequest]:
        return (WorkloadRequest(f"r{i}", float(i), 5 + i % 7, 1 + i % 3) for i in range(count))

    def peak_bytes(count: int) -> int:
        seen = 0

        def count_one(record: RequestRecord) -> None:
            nonlocal seen
            seen += 1

        tracemalloc.start()
        try:
            simulate(
                stream(count),
                resolve("fair"),
                CONFIG,
                steady_profile(),
                timeline_points=20,
                backend=backend,  # type: ignore[arg-type]
                on_record=count_one,
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == count
        return peak

    peak_bytes(100)  # imports and compilation
    assert peak_bytes(4 * few) < 1.5 * peak_bytes(few)
