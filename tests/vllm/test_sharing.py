"""Shared blocks counted at events equal those found by looking at every block of everybody."""

from __future__ import annotations

from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, make_request, worker_output
from tests.vllm.ours import build_ours, run_ours
from vllm.v1.request import RequestStatus

from bidkv.protocol.requests import WorkloadRequest


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("policy", ["bidkv", "lcf"])
@pytest.mark.parametrize("every", [1, 7], ids=["asked before every step", "asked now and then"])
def test_blocks_held_alone_are_counted_as_a_scan_would(policy, base, every):
    shared = 0
    for seed in range(12):

        def compare(scheduler: Any, number: int, seed: int = seed) -> None:
            nonlocal shared
            if number % 11 == 5 and scheduler.running:
                aborted = scheduler.running[number % len(scheduler.running)]
                scheduler.finish_requests(aborted.request_id, RequestStatus.FINISHED_ABORTED)
            if number % every:
                return
            engine = scheduler.bidkv.glue.engine
            engine.begin_step()
            running = [view for view in engine.running if not view._request.is_finished()]
            scanned = [engine.freed_blocks(view) for view in running]
            assert engine.column(running, "freed_blocks") == scanned, f"seed {seed}, step {number}"
            shared += sum(view.num_held_blocks for view in running) - sum(scanned)

        case = random_case(seed, prefix_caching=True)
        _, scheduler = run_ours(case, policy, base, before_step=compare)
        sharing = scheduler.bidkv.glue.engine._sharing
        assert not sharing._holders, "blocks of requests that left are remembered"
        assert not sharing._known
        assert scheduler.bidkv.controller.counters.failures == 0
    assert shared > 100, "nothing was shared: the comparison proves little"


def test_what_only_events_change_is_copied_at_every_preemption():
    seen: list[int] = []

    def compare(scheduler: Any, number: int) -> None:
        for view in scheduler.bidkv.glue.engine.views.values():
            assert view.num_preemptions == view._request.num_preemptions
            seen.append(view.num_preemptions)

    run_ours(random_case(0), "lcf", before_step=compare)
    assert max(seen) > 0


def test_what_only_events_change_is_copied_at_a_sessions_next_turn():
    shape = EngineShape(num_blocks=41, max_num_seqs=4, max_num_batched_tokens=256)
    turns = [
        Case(shape, (WorkloadRequest("session", 0.0, prompt, output, max_tokens=output),))
        for prompt, output in ((20, 3), (50, 5))
    ]
    scheduler = build_ours(turns[0], "lcf")
    for case in turns:
        turn = make_request(case.requests[0], 0, case)
        turn.resumable = True
        scheduler.add_request(turn)
        while scheduler.get_num_unfinished_requests():
            output = scheduler.schedule()
            (view,) = scheduler.bidkv.glue.engine.views.values()
            assert view.num_prompt_tokens == view._request.num_prompt_tokens
            assert view.max_tokens == view._request.max_tokens == case.requests[0].output_tokens
            scheduler.update_from_output(output, worker_output(scheduler, output))
    assert view.num_prompt_tokens == 20 + 2 + 50, "the first turn's last token is not part of the second"
