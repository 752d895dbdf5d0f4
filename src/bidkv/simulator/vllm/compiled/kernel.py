"""The step engine compiled, with leaps: the same decisions as `simulator.vllm.engine`, many times faster.

A resumable state machine over plain arrays. It runs until it needs Python: input, room, an answer of the
policy, or to tell the policy of an event it listens to. Between events a batch that only decodes needs no
decisions, so its steps are taken in a tight loop of a few operations each (the leap): only the clock, the
growing context and the blocks demanded by those that cross a block's end in that very step.

First come first served without prefix caching; `simulator.vllm.engine` is the reference and covers the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from numba import njit

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.admission import admit
from bidkv.simulator.vllm.compiled.arrivals import take_arrivals
from bidkv.simulator.vllm.compiled.build import compile_part, digest_sources
from bidkv.simulator.vllm.compiled.delivery import pass_time, retire
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.leap import can_leap, leap
from bidkv.simulator.vllm.compiled.scheduling import (
    ask_for_victims,
    schedule_running,
    start_step,
    sum_block_demand,
)


@compile_part
def _run_to_stop(t: Tables) -> int:
    """Take phase after phase until Python is needed; return the reason."""
    state = t.state
    while True:
        phase = state[at.PHASE]
        reason = at.GO_ON
        if phase == at.P_ARRIVE:
            reason = take_arrivals(t)
        elif phase == at.P_BEFORE:
            reason = ask_for_victims(t)
        elif phase == at.P_START:
            start_step(state)
        elif phase == at.P_RUN:
            reason = schedule_running(t)
        elif phase == at.P_ADMIT:
            reason = admit(t)
        elif phase == at.P_PASS_TIME:
            pass_time(t)
        elif phase == at.P_RETIRE:
            reason = retire(t)
        else:  # P_LEAP
            state[at.PHASE] = at.P_ARRIVE
            if can_leap(t):
                leap(t)
        if reason != at.GO_ON:
            return reason


def _compile_entries(digest: str) -> tuple[Callable[[Tables], Iterator[int]], Callable[[Any, Any, Any], int]]:
    """Return what Python calls; see :func:`digest_sources` for the closure."""

    @njit(cache=True)
    def run_kernel(t: Tables) -> Iterator[int]:
        # A generator keeps its arrays: handing all of them over anew costs a microsecond a call, more than
        # most of the work between two stops.
        _ = digest
        while True:
            yield _run_to_stop(t)

    @njit(cache=True)
    def block_demand(table: Any, running: Any, state: Any) -> int:
        _ = digest
        demand: int = sum_block_demand(table, running, state)
        return demand

    return run_kernel, block_demand


run_kernel, block_demand = _compile_entries(digest_sources())
"""`run_kernel` runs on at every `next` until Python is needed and yields why; `block_demand` is
:func:`sum_block_demand`."""
