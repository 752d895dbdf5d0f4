"""The scheduling rules once more, written as naively as they read, to check the engine's decisions against.

Nothing is shared with the engine: blocks are a set of numbers, queues are lists, every quantity is computed
from scratch. No policies, no prefix cache: the engine's own rules alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig


@dataclass(eq=False)
class _Live:
    source: WorkloadRequest
    generated: int = 0
    computed: int = 0
    blocks: set[int] = field(default_factory=set)

    @property
    def total(self) -> int:
        return self.source.prompt_tokens + self.generated

    def key(self) -> tuple[int, float, str]:
        return (self.source.priority, self.source.arrival_s, self.source.request_id)


@dataclass(frozen=True)
class Step:
    """What one step did, by request id."""

    scheduled: list[tuple[str, int]]
    preempted: list[str]
    finished: list[str]


def schedule_naively(
    requests: list[WorkloadRequest], config: EngineConfig, step_s: float = 1.0
) -> list[Step]:
    """Run all requests, every step taking `step_s`; requests whose prompt can never fit are left out."""
    size, by_priority = config.block_size, config.scheduling_policy == "priority"
    free = set(range(config.num_gpu_blocks - 1))  # rule 1
    limit = min(config.max_model_len or len(free) * size, len(free) * size)
    coming = [r for r in requests if r.prompt_tokens < limit]
    now = coming[0].arrival_s if coming else 0.0
    if requests:
        now = requests[0].arrival_s
    waiting: list[_Live] = []
    running: list[_Live] = []
    steps: list[Step] = []

    def chunk(live: _Live, budget: int) -> int:
        tokens = live.total - live.computed
        if config.long_prefill_token_threshold and len(running) + len(waiting) > 1:
            tokens = min(tokens, config.long_prefill_token_threshold)
        return min(tokens, budget, limit - live.computed - 1)

    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].arrival_s)
        while coming and coming[0].arrival_s <= now:  # rule 2
            waiting.append(_Live(coming.pop(0)))
        if by_priority:
            waiting.sort(key=_Live.key)
        scheduled: list[tuple[_Live, int]] = []
        preempted: list[_Live] = []
        index = 0
        stop = False
        while index < len(running) and not stop:  # rule 3
            budget = config.max_num_batched_tokens - sum(n for _, n in scheduled)
            live = running[index]
            tokens = chunk(live, budget)
            if budget == 0:
                break
            while True:
                need = ceil((live.computed + tokens) / size) - len(live.blocks)
                if need <= len(free):
                    break
                victim = running[-1]
                if by_priority:
                    victim = max(running, key=lambda r: (r.source.priority, r.source.arrival_s))
                if running.index(victim) < index:
                    index -= 1
                running.remove(victim)
                scheduled = [(r, n) for r, n in scheduled if r is not victim]
                free |= victim.blocks  # rule 6
                victim.blocks = set()
                victim.computed = 0
                preempted.append(victim)
                waiting.insert(0, victim)
                if victim is live:  # rule 5
                    stop = True
                    break
            if stop:
                break
            for _ in range(need):
                live.blocks.add(free.pop())
            scheduled.append((live, tokens))
            index += 1
        if by_priority:
            waiting.sort(key=_Live.key)
        while not preempted and waiting and len(running) < config.max_num_seqs:  # rules 7 and 8
            budget = config.max_num_batched_tokens - sum(n for _, n in scheduled)
            live = waiting[0]
            wanted = chunk(live, 10**9)
            if budget == 0 or (wanted > budget and not config.enable_chunked_prefill):  # rule 11
                break
            tokens = min(wanted, budget)
            kept = int(config.watermark * config.num_gpu_blocks) if running else 0  # rule 10
            whole = ceil(min(live.total, limit) / size) if config.reserve_full_isl else 0
            if max(whole, ceil(tokens / size)) + kept > len(free):  # rule 9
                break
            waiting.remove(live)
            running.append(live)
            for _ in range(ceil(tokens / size)):
                live.blocks.add(free.pop())
            scheduled.append((live, tokens))
        now += step_s
        finished = []
        for live, tokens in scheduled:  # rule 12
            live.computed += tokens
            if live.computed < live.total:
                continue
            live.generated += 1
            most = live.source.output_tokens
            if live.source.max_tokens is not None:
                most = min(most, live.source.max_tokens)
            if live.generated >= most or live.total >= limit:
                finished.append(live)
                running.remove(live)
                free |= live.blocks
        steps.append(
            Step(
                [(live.source.request_id, tokens) for live, tokens in scheduled],
                [live.source.request_id for live in preempted],
                [live.source.request_id for live in finished],
            )
        )
    return steps
