"""The waiting queue of the compiled kernel.

First come first served it is a doubly linked list through the table of live requests, under priority
scheduling a binary heap on (priority, arrival, rank); HEAD is the request the engine itself would admit next.
"""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables


@compile_part
def append_waiting(t: Tables, slot: int) -> None:
    """The request in `slot` arrived: it waits behind all others."""
    table, state = t.requests, t.state
    if state[at.BY_PRIORITY]:
        _push(t, slot)
        return
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
    """The request in `slot` was preempted: it waits before all others, or where its priority says."""
    table, state = t.requests, t.state
    if state[at.BY_PRIORITY]:
        _push(t, slot)
        return
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
    if state[at.BY_PRIORITY]:
        _pull(t, slot)
        return
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


@compile_part
def _push(t: Tables, slot: int) -> None:
    count = t.state[at.WAITING_COUNT]
    t.heap[count] = slot
    t.requests[at.HEAP_POSITION, slot] = count
    t.state[at.WAITING_COUNT] = count + 1
    _sift_up(t, count)
    t.state[at.HEAD] = t.heap[0]


@compile_part
def _pull(t: Tables, slot: int) -> None:
    heap, positions, state = t.heap, t.requests[at.HEAP_POSITION], t.state
    position = positions[slot]
    last = state[at.WAITING_COUNT] - 1
    state[at.WAITING_COUNT] = last
    if position != last:
        moved = heap[last]
        heap[position] = moved
        positions[moved] = position
        _sift_up(t, position)
        _sift_down(t, positions[moved])
    state[at.HEAD] = heap[0] if last else -1


@compile_part
def _goes_before(t: Tables, slot: int, other: int) -> bool:
    table = t.requests
    if table[at.PRIORITY, slot] != table[at.PRIORITY, other]:
        return bool(table[at.PRIORITY, slot] < table[at.PRIORITY, other])
    arrival_s, other_s = t.times[at.ARRIVAL_S, slot], t.times[at.ARRIVAL_S, other]
    if arrival_s != other_s:
        return bool(arrival_s < other_s)
    return bool(table[at.RANK, slot] < table[at.RANK, other])


@compile_part
def _sift_up(t: Tables, position: int) -> None:
    heap, positions = t.heap, t.requests[at.HEAP_POSITION]
    while position > 0:
        parent = (position - 1) >> 1
        slot, above = heap[position], heap[parent]
        if not _goes_before(t, slot, above):
            break
        heap[position], heap[parent] = above, slot
        positions[above], positions[slot] = position, parent
        position = parent


@compile_part
def _sift_down(t: Tables, position: int) -> None:
    heap, positions, count = t.heap, t.requests[at.HEAP_POSITION], t.state[at.WAITING_COUNT]
    while True:
        child = 2 * position + 1
        if child >= count:
            break
        if child + 1 < count and _goes_before(t, heap[child + 1], heap[child]):
            child += 1
        slot, below = heap[position], heap[child]
        if not _goes_before(t, below, slot):
            break
        heap[position], heap[child] = below, slot
        positions[below], positions[slot] = position, child
        position = child
