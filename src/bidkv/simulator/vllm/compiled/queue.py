"""The waiting queue of the compiled kernel.

First come first served it is a doubly linked list through the table of live requests, under priority
scheduling a binary heap on (priority, arrival, rank); HEAD is the request the engine itself would admit next.
"""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Array


@compile_part
def append_waiting(table: Array, times: Array, heap: Array, state: Array, slot: int) -> None:
    """The request in `slot` arrived: it waits behind all others."""
    if state[at.BY_PRIORITY]:
        _push(table, times, heap, state, slot)
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
def prepend_waiting(table: Array, times: Array, heap: Array, state: Array, slot: int) -> None:
    """The request in `slot` was preempted: it waits before all others, or where its priority says."""
    if state[at.BY_PRIORITY]:
        _push(table, times, heap, state, slot)
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
def remove_waiting(table: Array, times: Array, heap: Array, state: Array, slot: int) -> None:
    """The request in `slot` waits no longer."""
    if state[at.BY_PRIORITY]:
        _pull(table, times, heap, state, slot)
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
def _push(table: Array, times: Array, heap: Array, state: Array, slot: int) -> None:
    count = state[at.WAITING_COUNT]
    heap[count] = slot
    table[at.HEAP_POSITION, slot] = count
    state[at.WAITING_COUNT] = count + 1
    _sift_up(table, times, heap, count)
    state[at.HEAD] = heap[0]


@compile_part
def _pull(table: Array, times: Array, heap: Array, state: Array, slot: int) -> None:
    position = table[at.HEAP_POSITION, slot]
    last = state[at.WAITING_COUNT] - 1
    state[at.WAITING_COUNT] = last
    if position != last:
        moved = heap[last]
        heap[position] = moved
        table[at.HEAP_POSITION, moved] = position
        _sift_up(table, times, heap, position)
        _sift_down(table, times, heap, last, table[at.HEAP_POSITION, moved])
    state[at.HEAD] = heap[0] if last else -1


@compile_part
def _goes_before(table: Array, times: Array, slot: int, other: int) -> bool:
    if table[at.PRIORITY, slot] != table[at.PRIORITY, other]:
        return bool(table[at.PRIORITY, slot] < table[at.PRIORITY, other])
    arrival_s, other_s = times[at.ARRIVAL_S, slot], times[at.ARRIVAL_S, other]
    if arrival_s != other_s:
        return bool(arrival_s < other_s)
    return bool(table[at.RANK, slot] < table[at.RANK, other])


@compile_part
def _swap(table: Array, heap: Array, position: int, other: int) -> None:
    heap[position], heap[other] = heap[other], heap[position]
    table[at.HEAP_POSITION, heap[position]] = position
    table[at.HEAP_POSITION, heap[other]] = other


@compile_part
def _sift_up(table: Array, times: Array, heap: Array, position: int) -> None:
    while position > 0:
        parent = (position - 1) >> 1
        if not _goes_before(table, times, heap[position], heap[parent]):
            break
        _swap(table, heap, position, parent)
        position = parent


@compile_part
def _sift_down(table: Array, times: Array, heap: Array, count: int, position: int) -> None:
    while True:
        child = 2 * position + 1
        if child >= count:
            break
        if child + 1 < count and _goes_before(table, times, heap[child + 1], heap[child]):
            child += 1
        if not _goes_before(table, times, heap[child], heap[position]):
            break
        _swap(table, heap, position, child)
        position = child
