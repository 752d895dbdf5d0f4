"""The step engine compiled, with leaps: the same decisions as `simulator.vllm.engine`, many times faster.

A resumable state machine over plain arrays. It runs until it needs Python: input, room, an answer of the
policy, or to tell the policy of an event it listens to. Between events a batch that only decodes needs no
decisions, so its steps are taken in a tight loop of a few operations each (the leap): only the clock, the
growing context and the blocks demanded by those that cross a block's end in that very step.

`simulator.vllm.engine` is the reference; the rules in docs/reference/simulator.md are referred to by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.admission import admit
from bidkv.simulator.vllm.compiled.arrivals import take_arrivals
from bidkv.simulator.vllm.compiled.blocks import count_private, find_block, look_up, reuse_first, void_look
from bidkv.simulator.vllm.compiled.build import compile_entry, compile_part, digest_sources
from bidkv.simulator.vllm.compiled.delivery import abort, pass_time, retire
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


@compile_part
def _answer(t: Tables) -> int:
    """Answer what Python asks between two steps."""
    table, state = t.requests, t.state
    query, slot = state[at.QUERY], state[at.QUERY_SLOT]
    if query == at.Q_BLOCK_DEMAND:
        demand: int = sum_block_demand(table, t.running, state)
        return demand
    if query == at.Q_PRIVATE_BLOCKS:
        private: int = count_private(table, t.blocks, slot)
        return private
    if query == at.Q_ALL_PRIVATE_BLOCKS:
        for position in range(state[at.RUNNING_COUNT]):
            running = t.running[position]
            table[at.PRIVATE, running] = count_private(table, t.blocks, running)
    elif query == at.Q_CACHED_TOKENS:
        if slot == at.PROSPECT:
            void_look(state)
        look_up(t.requests, t.blocks, t.state, slot)
        cached: int = state[at.LOOKED_HITS] * state[at.BLOCK_SIZE]
        return cached
    elif query == at.Q_ABORT:
        abort(t, slot)
    elif query == at.Q_IS_CACHED:
        return int(find_block(t.blocks, state[at.QUERY_KEY]) >= 0)
    elif query == at.Q_REUSE_FIRST:
        moved = 0
        for offset in range(slot):
            moved += reuse_first(t.blocks, state, state[at.QUERY_KEY] + offset)
        return moved
    return 0


Entry = Callable[[Tables], Iterator[int]]


def _compile_entries(digest: str) -> tuple[Entry, Entry]:
    """Return what Python calls; see :func:`digest_sources` for the closure.

    Generators, because they keep their arrays: handing all of them over anew costs some microseconds a call,
    more than most of the work between two stops.
    """

    @compile_entry
    def run_kernel(t: Tables) -> Iterator[int]:
        _ = digest
        while True:
            yield _run_to_stop(t)

    @compile_entry
    def answer_queries(t: Tables) -> Iterator[int]:
        _ = digest
        while True:
            yield _answer(t)

    return run_kernel, answer_queries


run_kernel, answer_queries = _compile_entries(digest_sources())
"""`run_kernel` runs on at every `next` until Python is needed and yields why; `answer_queries` yields the
answer to the QUERY that the state holds."""
