"""The real vLLM scheduler over sessions in closed loop, without a model; prints what it did and took as JSON.

Run by `benchmarks/speed_against_vllm.py` in vLLM's environment:

    python -m benchmarks.vllm.real_sessions SESSIONS CONCURRENT NUM_GPU_BLOCKS MAX_NUM_SEQS PROFILE

A step takes what the profile says. Counted is the whole loop that drives the scheduler, making requests and
hashing their prompts included (the simulator's time includes making and naming its requests too), and of it
what the scheduler's own calls take.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from itertools import count
from typing import Any

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})

from benchmarks.requests_of import agent_sessions
from benchmarks.vllm.real_run import step_seconds
from tests.vllm.cases import EngineShape
from tests.vllm.harness import build_scheduler, worker_output
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SessionSource

_TOKENS_PER_KEY = 100_000
"""Tokens of different content keys are different numbers."""


class _Client:
    """Makes the real engine's requests, each with the tokens that its past really got."""

    def __init__(self, block_size: int) -> None:
        self._bases = count(_TOKENS_PER_KEY, _TOKENS_PER_KEY)
        self._base_of_key: dict[int, int] = {}
        self._contexts: dict[str, list[int]] = {}
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(block_size, sha256)

    def make(self, turn: WorkloadRequest, new_tokens: int) -> Request:
        past = turn.prompt_tokens - new_tokens
        prompt = self._contexts.get(turn.session_id, [])[:past]
        position = 0
        for key, tokens in turn.content:
            if position >= past:
                if key not in self._base_of_key:
                    self._base_of_key[key] = next(self._bases)
                prompt += range(self._base_of_key[key], self._base_of_key[key] + tokens)
            position += tokens
        return Request(
            request_id=turn.request_id,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(max_tokens=turn.output_tokens, ignore_eos=True),
            pooling_params=None,
            arrival_time=turn.arrival_s,
            block_hasher=self._hasher,
        )

    def keep(self, turn: WorkloadRequest, request: Request) -> None:
        assert request.prompt_token_ids is not None
        self._contexts[turn.session_id] = [*request.prompt_token_ids, *request.output_token_ids]


def drive(scheduler: Any, source: SessionSource, profile: StepTimeProfile) -> dict[str, float]:
    """Serve all sessions; return the counters of the run and the seconds it took."""
    client = _Client(16)
    live: dict[str, tuple[WorkloadRequest, Request]] = {}
    now_s = source.next_arrival_s
    steps = tokens = preemptions = turns = 0
    calls_cpu_s = 0.0
    first, first_wall = time.process_time(), time.perf_counter()
    while live or source.next_arrival_s < math.inf:
        if not live:
            now_s = max(now_s, source.next_arrival_s)
        arrived = []
        while source.next_arrival_s <= now_s:
            turn, new_tokens, *_ = source.take()
            request = client.make(turn, new_tokens or 0)
            live[turn.request_id] = turn, request
            arrived.append(request)
        started = time.process_time()
        for request in arrived:
            scheduler.add_request(request)
        output = scheduler.schedule()
        calls_cpu_s += time.process_time() - started
        made = worker_output(scheduler, output)
        now_s += step_seconds(scheduler, output.num_scheduled_tokens, profile)
        steps += 1
        tokens += output.total_num_scheduled_tokens
        preemptions += len(output.preempted_req_ids or ())
        started = time.process_time()
        scheduler.update_from_output(output, made)
        calls_cpu_s += time.process_time() - started
        for name in [name for name in output.num_scheduled_tokens if live[name][1].is_finished()]:
            turn, request = live.pop(name)
            client.keep(turn, request)
            turns += 1
            source.close(turn, now_s, request.num_output_tokens, completed=True)
    return {
        "requests": turns,
        "steps": steps,
        "scheduled_tokens": tokens,
        "preemptions": preemptions,
        "simulated_s": now_s,
        "calls_cpu_s": calls_cpu_s,
        "cpu_s": time.process_time() - first,
        "wall_s": time.perf_counter() - first_wall,
    }


def main(sessions: str, concurrent: str, num_gpu_blocks: str, max_num_seqs: str, profile: str) -> None:
    """Run one engine size."""
    engine = EngineConfig(num_gpu_blocks=int(num_gpu_blocks), max_num_seqs=int(max_num_seqs))
    shape = EngineShape(
        num_blocks=engine.num_gpu_blocks,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.model_len,
        prefix_caching=True,
    )
    timed = load_profile(profile).for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
    source = agent_sessions(int(sessions), int(concurrent))
    print(json.dumps(drive(build_scheduler(shape), source, timed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
