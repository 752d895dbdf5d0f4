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

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})

from benchmarks.requests_of import agent_sessions
from benchmarks.vllm.real_run import TimedScheduler
from tests.vllm.session_prompts import SessionPrompts
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig


def main(sessions: str, concurrent: str, num_gpu_blocks: str, max_num_seqs: str, profile: str) -> None:
    """Run one engine size."""
    engine = EngineConfig(
        num_gpu_blocks=int(num_gpu_blocks), max_num_seqs=int(max_num_seqs), enable_prefix_caching=True
    )
    source = agent_sessions(int(sessions), int(concurrent))
    prompts = SessionPrompts()
    init_none_hash(sha256)
    hasher = get_request_block_hasher(engine.block_size, sha256)
    live: dict[str, tuple[WorkloadRequest, Request]] = {}
    turns = 0
    scheduler = TimedScheduler(engine, profile, source.next_arrival_s)
    while live or source.next_arrival_s < math.inf:
        if not live:
            scheduler.now_s = max(scheduler.now_s, source.next_arrival_s)
        arrived = []
        while source.next_arrival_s <= scheduler.now_s:
            turn, new_tokens, *_ = source.take()
            request = Request(
                request_id=turn.request_id,
                prompt_token_ids=prompts.write(turn, new_tokens or 0),
                sampling_params=SamplingParams(max_tokens=turn.output_tokens, ignore_eos=True),
                pooling_params=None,
                arrival_time=turn.arrival_s,
                block_hasher=hasher,
            )
            live[turn.request_id] = turn, request
            arrived.append(request)
        for name in scheduler.step(arrived):
            turn, request = live[name]
            if request.is_finished():
                del live[name]
                prompts.keep(turn, request)
                turns += 1
                source.close(turn, scheduler.now_s, request.num_output_tokens, completed=True)
    print(json.dumps(scheduler.figures(turns)))


if __name__ == "__main__":
    main(*sys.argv[1:])
