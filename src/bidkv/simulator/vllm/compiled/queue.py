"""The waiting queue of the compiled kernel: a doubly linked list through the table of live requests."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables


@compile_part
def append_waiting(t: Tables, slot: int) -> None:
    """The request in `slot` arrived: it waits behind all others."""
    table, state = t.requests, t.state
    tail = state[at.TAIL]
    table[at.NEXT, slot] = -1
    table[at.PREVIOUS, slot] = tail
    if tail >= 0:
        table[at.NEXT, tail] = slot
    else:
        state[at.HEAD] = slot
    state[at.TAIL] = slot
    state[at.WAITING_COUNT] += 1


@compile_part
def prepend_waiting(t: Tables, slot: int) -> None:
    """The request in `slot` was preempted: it waits before all others."""
    table, state = t.requests, t.state
    head = state[at.HEAD]
    table[at.PREVIOUS, slot] = -1
    table[at.NEXT, slot] = head
    if head >= 0:
        table[at.PREVIOUS, head] = slot
    else:
        state[at.TAIL] = slot
    state[at.HEAD] = slot
    state[at.WAITING_COUNT] += 1


@compile_part
def remove_waiting(t: Tables, slot: int) -> None:
    """The request in `slot` waits no longer."""
    table, state = t.requests, t.state
    before, after = table[at.PREVIOUS, slot], table[at.NEXT, slot]
    if before >= 0:
        table[at.NEXT, before] = after
    else:
        state[at.HEAD] = after
    if after >= 0:
        table[at.PREVIOUS, after] = before
    else:
        state[at.TAIL] = before
    state[at.WAITING_COUNT] -= 1
