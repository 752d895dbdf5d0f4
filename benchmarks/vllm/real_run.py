"""The real vLLM scheduler over the requests of a trace, without a model; prints what it did and took as JSON.

Run by `benchmarks/speed_against_vllm.py` in vLLM's environment:

    python -m benchmarks.vllm.real_run TRACE REQUESTS NUM_GPU_BLOCKS MAX_NUM_SEQS PROFILE

A step takes what the profile says, so that arrivals fall where they fall in the simulator. Two times are
counted: the whole loop that drives the scheduler, and of it what the scheduler's own three calls take
(`add_request`, `schedule`, `update_from_output`), without the answers that a worker would give. Making the
requests counts in neither.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from typing import Any

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})

from benchmarks.requests_of import requests_of
from tests.vllm.cases import EngineShape
from tests.vllm.harness import build_scheduler, worker_output
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.simulator import EngineConfig


def drive(scheduler: Any, arrivals: deque[Request], profile: StepTimeProfile) -> dict[str, float]:
    """Serve all requests; return the counters of the run and the seconds it took."""
    now_s = arrivals[0].arrival_time
    steps = tokens = preemptions = 0
    calls_cpu_s = 0.0
    count = len(arrivals)
    first, first_wall = time.process_time(), time.perf_counter()
    while arrivals or scheduler.running or scheduler.waiting:
        if not scheduler.running and not scheduler.waiting:
            now_s = max(now_s, arrivals[0].arrival_time)
        started = time.process_time()
        while arrivals and arrivals[0].arrival_time <= now_s:
            scheduler.add_request(arrivals.popleft())
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
    return {
        "requests": count,
        "steps": steps,
        "scheduled_tokens": tokens,
        "preemptions": preemptions,
        "simulated_s": now_s,
        "calls_cpu_s": calls_cpu_s,
        "cpu_s": time.process_time() - first,
        "wall_s": time.perf_counter() - first_wall,
    }


def step_seconds(scheduler: Any, scheduled: dict[str, int], profile: StepTimeProfile) -> float:
    """Return how long the step takes that was just scheduled."""
    if not scheduled:
        return profile.empty_step_s
    prefill_tokens, prefills, decodes, context, attention = 0, 0, 0, 0, 0.0
    for request_id, tokens in scheduled.items():
        request = scheduler.requests[request_id]
        end = request.num_computed_tokens
        context += end
        if tokens == 1 and end == request.num_tokens:
            decodes += 1
        else:
            prefills += 1
            prefill_tokens += tokens
            attention += tokens * (end - tokens + tokens * 0.5)
    return profile.step_s(prefill_tokens, attention, decodes, context, prefills)


def main(trace: str, limit: str, num_gpu_blocks: str, max_num_seqs: str, profile: str) -> None:
    """Run one engine size."""
    engine = EngineConfig(num_gpu_blocks=int(num_gpu_blocks), max_num_seqs=int(max_num_seqs))
    shape = EngineShape(
        num_blocks=engine.num_gpu_blocks,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.model_len,
    )
    arrivals = deque(
        Request(
            request_id=request.request_id,
            prompt_token_ids=[0] * request.prompt_tokens,
            sampling_params=SamplingParams(max_tokens=request.output_tokens, ignore_eos=True),
            pooling_params=None,
            arrival_time=request.arrival_s,
        )
        for request in requests_of(trace, int(limit), engine)
    )
    timed = load_profile(profile).for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
    print(json.dumps(drive(build_scheduler(shape), arrivals, timed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
