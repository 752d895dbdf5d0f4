"""What the adapter costs inside the real scheduler: `.venv-vllm/bin/python -m pytest benchmarks/vllm`.

One group for each number of running requests: vLLM's own `schedule()`, the adapter's part of it while memory
is plentiful, and one decision of every policy under pressure, timed in one run to be read against each other
(--benchmark-columns=min,median). Nothing here has a limit that fails: machines differ.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.vllm.cases import Case, EngineShape
from tests.vllm.harness import Scheduler, build_scheduler, make_request, worker_output
from tests.vllm.ours import build_ours

from bidkv.policy import available, resolve
from bidkv.protocol.requests import WorkloadRequest

RUNNING = (32, 256, 2048)
SHARED_CHUNKS, CHUNK_TOKENS = 2, 64
MEMORY = ["no caching", "caching", "shared prefixes"]
"""Prefix caching off; on; and on with four families of requests whose first 128 tokens are the same."""

DECIDING = ["preempt-evict", *(name for name in available() if resolve(name).chooses_victims)]
"""Every policy that chooses victims, and the one that leaves them to the engine."""


def decoding(running: int, policy: str | None, memory: str = MEMORY[0]) -> Any:
    """A scheduler with `running` decoding requests of 200 to 455 tokens and plenty of memory."""
    lengths = [200 + i % 256 for i in range(running)]
    shape = EngineShape(
        num_blocks=running * 160,
        max_num_seqs=running,
        max_num_batched_tokens=sum(lengths) + running,
        max_model_len=32768 if running < 2048 else 1_000_000,
        prefix_caching=memory != MEMORY[0],
    )
    shared = memory == MEMORY[2]
    requests = tuple(
        WorkloadRequest(
            f"r{i:04d}",
            0.0,
            length,
            2000,
            max_tokens=2000,
            hash_ids=tuple(10 * (i % 4) + chunk for chunk in range(SHARED_CHUNKS)) if shared else (),
        )
        for i, length in enumerate(lengths)
    )
    case = Case(shape, requests, CHUNK_TOKENS)
    scheduler = build_scheduler(shape, Scheduler) if policy is None else build_ours(case, policy)
    if policy is not None:
        # A busy machine must not switch the policy off in the middle of a measurement.
        scheduler.bidkv.controller._time_budget_s = None
    for index, request in enumerate(requests):
        scheduler.add_request(make_request(request, index, case))
    step(scheduler)
    assert len(scheduler.running) == running
    return scheduler


def step(scheduler: Any) -> None:
    output = scheduler.schedule()
    scheduler.update_from_output(output, worker_output(scheduler, output))


def take_blocks(scheduler: Any, leave: int) -> None:
    """Leave only so many blocks free."""
    pool = scheduler.kv_cache_manager.block_pool
    pool.get_new_blocks(pool.get_num_free_blocks() - leave)


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("policy", [None, "lcf"], ids=["plain vLLM", "adapter"])
def test_schedule_without_pressure(benchmark, running, policy):
    scheduler = decoding(running, policy)
    last: list[Any] = []

    def schedule():
        last.append(scheduler.schedule())

    def update():
        if last:
            output = last.pop()
            scheduler.update_from_output(output, worker_output(scheduler, output))

    benchmark.group = f"{running} running"
    benchmark.pedantic(schedule, setup=update, rounds=200, warmup_rounds=20)


@pytest.mark.parametrize("running", RUNNING)
def test_the_adapters_own_part_of_it(benchmark, running):
    """All that the adapter adds to schedule() while memory is plentiful."""
    scheduler = decoding(running, "lcf")
    glue = scheduler.bidkv.glue
    scheduled = SimpleNamespace(num_scheduled_tokens={}, total_num_scheduled_tokens=running)

    def hooks():
        glue.begin_pass()
        glue.end_pass(scheduled)

    benchmark.group = f"{running} running"
    benchmark(hooks)


@pytest.fixture(
    scope="module", params=[f"{running}, {memory}" for running in RUNNING[1:] for memory in MEMORY]
)
def pressed(request):
    """A scheduler whose next step is short of one block."""
    running, _, memory = request.param.partition(", ")
    scheduler = decoding(int(running), "lcf", memory)
    engine = scheduler.bidkv.glue.engine
    while engine.block_demand(frozenset()) < 2:
        step(scheduler)
        engine.begin_step()
    take_blocks(scheduler, engine.block_demand(frozenset()) - 1)
    return scheduler


@pytest.mark.parametrize("policy", DECIDING)
def test_one_decision(benchmark, policy, pressed):
    """Counting the demand, choosing a victim, counting again; since the last time one came and one left."""
    engine, control = pressed.bidkv.glue.engine, pressed.bidkv.controller
    control.switch(resolve(policy))
    changing = engine.running[len(engine.running) // 2]

    def decide():
        engine.preempted(changing)
        engine.admitted(changing)
        engine.begin_step()
        return control.before_step(engine)

    assert len(decide()) == control.chooses_victims
    benchmark.group = f"{len(engine.running)} running"
    benchmark(decide)
    assert control.counters.failures == 0
