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
from collections.abc import Iterable
from typing import Any, cast

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})

from benchmarks.requests_of import requests_of
from tests.vllm.cases import EngineShape
from tests.vllm.harness import build_scheduler, worker_output
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.simulator import EngineConfig


class TimedScheduler:
    """A real scheduler on a clock that the profile moves; counts what it did and what that took.

    Attributes:
        now_s: seconds on that clock; the caller moves it over idle times.
    """

    def __init__(self, engine: EngineConfig, profile: str, now_s: float) -> None:
        shape = EngineShape(
            num_blocks=engine.num_gpu_blocks,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_model_len=engine.model_len,
            prefix_caching=engine.enable_prefix_caching,
        )
        self.now_s = now_s
        self._scheduler: Any = build_scheduler(shape)
        self._profile = load_profile(profile).for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
        self._steps = self._tokens = self._preemptions = 0
        self._calls_cpu_s = 0.0
        self._first, self._first_wall = time.process_time(), time.perf_counter()

    @property
    def idle(self) -> bool:
        """Whether no request runs or waits."""
        return not self._scheduler.running and not self._scheduler.waiting

    def step(self, arrived: Iterable[Request]) -> Iterable[str]:
        """Take in requests, run one step and return the ids of those it scheduled."""
        scheduler = self._scheduler
        started = time.process_time()
        for request in arrived:
            scheduler.add_request(request)
        output = scheduler.schedule()
        self._calls_cpu_s += time.process_time() - started
        made = worker_output(scheduler, output)
        self.now_s += step_seconds(scheduler, output.num_scheduled_tokens, self._profile)
        self._steps += 1
        self._tokens += output.total_num_scheduled_tokens
        self._preemptions += len(output.preempted_req_ids or ())
        started = time.process_time()
        scheduler.update_from_output(output, made)
        self._calls_cpu_s += time.process_time() - started
        return cast("Iterable[str]", output.num_scheduled_tokens)

    def figures(self, requests: int) -> dict[str, float]:
        """Return the counters of the run, which served so many requests, and the seconds it took."""
        return {
            "requests": requests,
            "steps": self._steps,
            "scheduled_tokens": self._tokens,
            "preemptions": self._preemptions,
            "simulated_s": self.now_s,
            "calls_cpu_s": self._calls_cpu_s,
            "cpu_s": time.process_time() - self._first,
            "wall_s": time.perf_counter() - self._first_wall,
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
    count = len(arrivals)
    scheduler = TimedScheduler(engine, profile, arrivals[0].arrival_time)
    while arrivals or not scheduler.idle:
        if scheduler.idle:
            scheduler.now_s = max(scheduler.now_s, arrivals[0].arrival_time)
        arrived = []
        while arrivals and arrivals[0].arrival_time <= scheduler.now_s:
            arrived.append(arrivals.popleft())
        scheduler.step(arrived)
    print(json.dumps(scheduler.figures(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
