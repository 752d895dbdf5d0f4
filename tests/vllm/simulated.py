"""The same cases through the simulator's step engine, recorded in the same form."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from tests.vllm.cases import Case, Step

from bidkv.control import Controller
from bidkv.protocol.policy import Policy
from bidkv.simulator.request import SimRequest
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.engine import VllmStepEngine


class OneSecondSteps:
    """The profile of an engine whose every step takes a second."""

    empty_step_s = 1.0

    def step_s(self, *_counts: float) -> float:
        return 1.0


def engine_config(case: Case, **options: Any) -> EngineConfig:
    """The simulated engine of a case's shape, with further options."""
    shape = case.shape
    return EngineConfig(
        num_gpu_blocks=shape.num_blocks,
        block_size=shape.block_size,
        max_num_seqs=shape.max_num_seqs,
        max_num_batched_tokens=shape.max_num_batched_tokens,
        max_model_len=shape.max_model_len,
        enable_prefix_caching=shape.prefix_caching,
        prefix_chunk_tokens=case.prefix_chunk_tokens,
        enable_chunked_prefill=shape.chunked_prefill,
        watermark=shape.watermark,
        scheduling_policy=shape.scheduling_policy,
        long_prefill_token_threshold=shape.long_prefill_token_threshold,
        **options,
    )


def simulate_case(case: Case, policy: Policy, **options: Any) -> tuple[list[Step], Controller]:
    """Serve a case to its end in the simulator; return its steps and the controller that was in charge."""
    config = engine_config(case, **options)
    controller = Controller(policy, time_budget_s=None)
    engine = VllmStepEngine(config, OneSecondSteps(), controller)
    arrivals = deque(case.requests)
    steps: list[Step] = []
    second = 0
    while arrivals or not engine.idle:
        if engine.idle:
            second = max(second, math.ceil(arrivals[0].arrival_s))
        while arrivals and arrivals[0].arrival_s <= second:
            request = arrivals.popleft()
            engine.wait_until(request.arrival_s)
            engine.submit(SimRequest(request, config.model_len))
        engine.wait_until(float(second))
        engine.step()
        second += 1
        steps.append(
            Step(
                tuple((request.request_id, tokens) for request, tokens in engine.scheduled),
                tuple(request.request_id for request in engine.preempted),
            )
        )
    return steps, controller
