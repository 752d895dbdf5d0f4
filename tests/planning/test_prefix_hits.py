"""Prefix hits in closed form, beside a simulated prefix cache."""

from __future__ import annotations

import pytest

from bidkv.planning.prefix_hits import measure_hits
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads.families import FAMILIES


@pytest.mark.parametrize("family", ["chat-shared-prefix", "agents-shared-prefix"])
@pytest.mark.parametrize("blocks", [600, 1000, 2000])
def test_hits_are_those_of_a_simulated_cache(family: str, blocks: int) -> None:
    engine = EngineConfig(blocks, enable_prefix_caching=True)
    requests = [
        request
        for request in FAMILIES[family](1200, 2.0, 1)
        if request.prompt_tokens + request.output_tokens < engine.model_len
    ]
    result = simulate(requests, resolve("preempt-evict"), engine, load_profile("h100-llama3.1-8b"))
    totals = result.totals
    assert totals.prefix_hit_tokens is not None
    assert totals.prompt_tokens_seen
    simulated = totals.prefix_hit_tokens / totals.prompt_tokens_seen
    found = measure_hits(requests, blocks * engine.block_size, engine.prefix_chunk_tokens)
    print(f"{family}, {blocks} blocks: {found:.3f}, simulated {simulated:.3f}")
    assert found == pytest.approx(simulated, abs=0.05)


def request_of(number: int, *ids: int) -> WorkloadRequest:
    return WorkloadRequest(f"r{number}", float(number), 10 * len(ids), 5, hash_ids=ids)


def test_what_was_used_least_recently_goes_first_and_the_end_before_the_beginning() -> None:
    first, other = request_of(0, 1, 2, 3), request_of(1, 7, 8)
    again = request_of(2, 1, 2, 3)
    # Room for four chunks: of the first prompt its last chunk is gone.
    assert measure_hits([first, other, again], 40, 10) == pytest.approx(20 / 80)
    assert measure_hits([first, other, again], 50, 10) == pytest.approx(29 / 80)
    assert measure_hits([first, other, again], 0, 10) == 0.0
    assert measure_hits([], 40, 10) == 0.0
