"""KV connectors: requests that load, pinned blocks, failed loads; and named victims that can go."""

from __future__ import annotations

from typing import Any

import pytest
from tests.vllm.cases import random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, run_case
from tests.vllm.ours import run_ours
from tests.vllm.remote_store import remote_store

STORES = {
    "loads in the step": {"load_steps": 0},
    "loads for three steps": {"load_steps": 3},
    "loads that fail, blocks pinned while sent": {"load_steps": 3, "fail_every": 4, "send_steps": 3},
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_who_is_named_is_preempted(store, base, campaign, note_figures):
    """No request is named whose blocks a transfer pins; one that runs alone is preempted by vLLM itself."""
    preemptions = spared = alone = loads = failed = 0
    for seed in range(60 if campaign else 3):
        for policy in ("lcf", "fast") if campaign else (("fast", "lcf")[seed % 2],):
            case = random_case(seed, prefix_caching=bool(seed % 2))
            named: dict[int, tuple[str, ...]] = {}
            running: dict[int, int] = {}

            def watch(scheduler, named=named):
                def write(victims):
                    named[scheduler.current_step] = tuple(victim.request_id for victim in victims)

                scheduler.bidkv.glue.on_victims = write

            def look(scheduler: Any, number: int, running=running) -> None:
                running[number] = len(scheduler.running)

            engine = {"kv_transfer": remote_store(**STORES[store])}
            steps, scheduler = run_ours(case, policy, base, engine=engine, prepare=watch, before_step=look)
            for number, step in enumerate(steps):
                chosen = named.get(number, ())
                if running[number] == 1:
                    assert chosen == ()
                    alone += len(step.preempted)
                    continue
                assert step.preempted == chosen[: len(step.preempted)], f"{seed}, {policy}, {number}"
                preemptions += len(step.preempted)
                spared += len(chosen) - len(step.preempted)
            counters = scheduler.bidkv.controller.counters
            assert counters.failures == 0
            assert counters.completions == len(case.requests)
            loads += scheduler.connector.num_loads
            failed += scheduler.connector.num_failed_loads
    note_figures(
        f"{store}, {base.__name__}: {preemptions} preemptions, all of victims named and in their order, "
        f"{spared} more were named and spared; {alone} of requests that ran alone; {loads} loads, "
        f"{failed} of them failed"
    )
    assert preemptions > 50
    assert spared <= 0.05 * preemptions
    assert loads > 40
    assert (failed > 5) == ("fail" in store)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_the_engines_own_order_is_kept_to_the_letter(store, base):
    """`preempt-evict` answers nothing: every step equals plain vLLM's."""
    case = random_case(1, prefix_caching=True)
    engine = {"kv_transfer": remote_store(**STORES[store])}
    steps, scheduler = run_ours(case, "preempt-evict", base, engine=engine)
    assert steps == run_case(case, base, engine=engine)
    assert scheduler.bidkv.controller.counters.preemptions_by_engine > 5


def test_while_a_transfer_is_about_to_free_blocks_nobody_is_named():
    """vLLM then waits for these blocks and preempts nobody."""
    named: list[Any] = []

    def prepare(scheduler):
        scheduler.connector.has_pending_block_frees = lambda: True
        scheduler.bidkv.glue.on_victims = named.extend

    def stop(scheduler, number):
        scheduler.connector.has_pending_block_frees = lambda: number % 2 == 0

    engine = {"kv_transfer": remote_store(load_steps=2)}
    case = random_case(1)
    steps, _ = run_ours(case, "lcf", engine=engine, prepare=prepare, before_step=stop)
    assert named
    assert not any(step.preempted for step in steps[::2])


def test_where_requests_go_on_to_another_engine_sessions_are_left_to_vllm():
    """Their blocks are pinned while they are sent, and their next turn may come to any engine."""
    case = random_case(2, prefix_caching=True)
    settings = remote_store(load_steps=2)
    settings.kv_role = "kv_producer"
    _, scheduler = run_ours(case, "sessions", engine={"kv_transfer": settings})
    engine, counters = scheduler.bidkv.glue.engine, scheduler.bidkv.controller.counters
    assert engine.sessions is engine.cache is None
    assert counters.session_drops == counters.failures == 0
    assert counters.completions == len(case.requests)
