"""Random scheduling cases: an engine's shape and the requests it serves, known without any engine.

A step takes one second: a request with ``arrival_s == 3.0`` joins before the step at second 3 is
scheduled, and an engine with nothing to do leaps to the second of the next arrival without a step.
Whoever runs a case records a :class:`Step` for every step; two runs are equal when their lists are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from bidkv.protocol.requests import WorkloadRequest


class Step(NamedTuple):
    """What one step did: (request id, tokens) in scheduling order, and the preempted ids in order."""

    scheduled: tuple[tuple[str, int], ...]
    preempted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineShape:
    """The settings of a scheduler that a case depends on; `num_blocks` includes the null block."""

    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int = 16
    max_model_len: int = 4096
    long_prefill_token_threshold: int = 0
    chunked_prefill: bool = True
    prefix_caching: bool = False
    scheduling_policy: str = "fcfs"
    watermark: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One engine and the requests it serves, in the order in which they are added.

    `prefix_chunk_tokens` is how many prompt tokens one of a request's ``hash_ids`` stands for.
    """

    shape: EngineShape
    requests: tuple[WorkloadRequest, ...]
    prefix_chunk_tokens: int = 0
    seed: int = field(default=0)


def prompt_token_ids(request: WorkloadRequest, index: int, chunk_tokens: int) -> list[int]:
    """Prompt tokens in which equal leading `hash_ids` give equal leading chunks and all else differs."""
    shared = [
        1_000_000 + hash_id * 10_000 + position
        for hash_id in request.hash_ids
        for position in range(chunk_tokens)
    ][: request.prompt_tokens]
    own = [10_000_000 + index * 100_000 + position for position in range(len(shared), request.prompt_tokens)]
    return shared + own


def random_case(seed: int, *, prefix_caching: bool = False, scheduling_policy: str = "fcfs") -> Case:
    """A seeded case, tight enough in memory that most preempt; every request fits the memory alone."""
    rng = random.Random(seed)
    block_size = 16
    max_num_seqs = rng.choice((2, 4, 8, 16, 32))
    budget = rng.choice((32, 64, 128, 256, 512, 2048))
    chunked = rng.random() < 0.85
    longest_prompt = rng.choice((40, 120, 400, 900))
    longest_output = rng.choice((20, 80, 200))
    if not chunked:
        budget = max(budget, longest_prompt + longest_output + 1)
    budget = max(budget, max_num_seqs)
    need = -(-(longest_prompt + longest_output + 1) // block_size)
    num_blocks = 1 + need + rng.randint(0, max(1, need * min(max_num_seqs, 8) // 5))
    shape = EngineShape(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        block_size=block_size,
        max_model_len=2048 if chunked else min(2048, budget),
        long_prefill_token_threshold=rng.choice((0, 0, 0, 48)) if chunked else 0,
        chunked_prefill=chunked,
        prefix_caching=prefix_caching,
        scheduling_policy=scheduling_policy,
        watermark=rng.choice((0.0, 0.0, 0.0, 0.01, 0.05)),
    )
    chunk = 64
    spread = rng.choice((0, 0, 1, 3, 6))
    requests: list[WorkloadRequest] = []
    step = 0
    for index in range(rng.randint(16, 60)):
        step += rng.randint(0, spread)
        prompt = rng.randint(1, longest_prompt)
        groups = rng.randint(0, min(3, prompt // chunk)) if prefix_caching else 0
        family = rng.randint(0, 2)
        requests.append(
            WorkloadRequest(
                request_id=f"r{index:03d}",
                # The priority policy breaks ties by arrival: distinct times there.
                arrival_s=step + (index * 1e-4 if scheduling_policy == "priority" else 0.0),
                prompt_tokens=prompt,
                output_tokens=(output := rng.randint(1, longest_output)),
                max_tokens=output,
                priority=rng.randint(0, 2) if scheduling_policy == "priority" else 0,
                hash_ids=tuple(family * 10 + level for level in range(groups)),
            )
        )
    return Case(shape, tuple(requests), chunk, seed)
