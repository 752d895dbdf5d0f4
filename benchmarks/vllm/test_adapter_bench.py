"""What the adapter costs inside the real scheduler: `.venv-vllm/bin/python -m pytest benchmarks/vllm`.

The same real step is timed in the same run, so that the two can be read against each other
(--benchmark-columns=min,median). Nothing here has a limit that fails: machines differ.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.vllm.cases import Case, EngineShape
from tests.vllm.harness import Scheduler, build_scheduler, make_request, worker_output
from tests.vllm.ours import build_ours

from bidkv.protocol.requests import WorkloadRequest

RUNNING = (32, 256, 2048)


def decoding(running: int, policy: str | None, *, prefix_caching: bool = False) -> Any:
    """A scheduler with `running` decoding requests of 200 to 455 tokens and plenty of memory."""
    lengths = [200 + i % 256 for i in range(running)]
    shape = EngineShape(
        num_blocks=running * 160,
        max_num_seqs=running,
        max_num_batched_tokens=sum(lengths) + running,
        max_model_len=32768 if running < 2048 else 1_000_000,
        prefix_caching=prefix_caching,
    )
    requests = tuple(
        WorkloadRequest(f"r{i:04d}", 0.0, length, 2000, max_tokens=2000) for i, length in enumerate(lengths)
    )
    case = Case(shape, requests)
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
@pytest.mark.parametrize("policy", [None, "lcf"], ids=["plain", "adapter"])
def test_schedule_without_pressure(benchmark, running, policy):
    scheduler = decoding(running, policy)
    last: list[Any] = []

    def schedule():
        last.append(scheduler.schedule())

    def update():
        if last:
            output = last.pop()
            scheduler.update_from_output(output, worker_output(scheduler, output))

    benchmark.group = f"schedule(), {running} running, no pressure"
    benchmark.pedantic(schedule, setup=update, rounds=200, warmup_rounds=20)


@pytest.mark.parametrize("running", RUNNING)
def test_the_adapters_own_part_of_a_step(benchmark, running):
    """All that the adapter adds to schedule() while memory is plentiful."""
    scheduler = decoding(running, "lcf")
    glue = scheduler.bidkv.glue

    def hooks():
        scheduler.bidkv.poll()
        glue.begin_pass()
        glue.end_pass({})
        glue.controller.after_step(glue.engine, running)

    benchmark.group = f"schedule(), {running} running, no pressure"
    benchmark(hooks)


@pytest.mark.parametrize("running", RUNNING[1:])
@pytest.mark.parametrize("prefix_caching", [False, True], ids=["", "prefix caching"])
@pytest.mark.parametrize("policy", ["lcf", "largest-first", "bidkv"])
def test_one_decision_under_pressure(benchmark, running, policy, prefix_caching):
    """Counting the demand, choosing one victim, counting again."""
    scheduler = decoding(running, policy, prefix_caching=prefix_caching)
    glue = scheduler.bidkv.glue
    while glue.engine.block_demand(frozenset()) < 2:
        step(scheduler)
    take_blocks(scheduler, glue.engine.block_demand(frozenset()) - 1)

    def decide():
        glue.engine.begin_step()
        return glue.controller.before_step(glue.engine)

    assert len(decide()) == 1
    benchmark.group = f"one decision, {running} running"
    benchmark(decide)
