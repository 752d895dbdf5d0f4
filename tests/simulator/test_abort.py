"""A request given up between two steps, as vLLM does it: gone at once, what it held is free."""

from __future__ import annotations

import pytest
from tests.simulator.driver import CheckedRun
from tests.support import requests_of

from bidkv.policy import resolve
from bidkv.simulator import EngineConfig

CONFIG = EngineConfig(num_gpu_blocks=8, block_size=4, max_num_seqs=2, max_num_batched_tokens=16)


def test_a_running_and_a_waiting_request_leave_at_once() -> None:
    run = CheckedRun(requests_of((8, 8), (8, 8), (8, 3)), resolve("fair"), CONFIG)
    run.step()
    engine = run.engine
    running, waiting = engine.running[0], engine.waiting()[0]
    free = engine.free_blocks
    held = running.num_held_blocks
    run.abort(waiting)
    run.abort(running)
    assert engine.free_blocks == free + held
    assert [r.request_id for r in engine.running] == ["r1"]
    assert engine.num_waiting == 0
    assert run.run().outputs == {"r1": 8}
    assert (run.control.counters.aborts, run.control.counters.completions) == (2, 1)


def test_one_that_is_gone_cannot_be_given_up() -> None:
    run = CheckedRun(requests_of((8, 1)), resolve("preempt-evict"), CONFIG)
    run.step()
    with pytest.raises(ValueError, match=r"'r0'.* neither runs nor waits"):
        run.engine.abort(run.engine.finished[0])
