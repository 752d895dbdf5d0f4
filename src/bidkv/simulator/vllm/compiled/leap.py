"""Leaps of the compiled kernel: steps that only decode, in a loop of a few operations each."""

from __future__ import annotations

import numpy as np

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.blocks import label_up_to, take_block
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.timing import count_gaps, offer_timeline


@compile_part
def can_leap(t: Tables) -> bool:
    """Whether the coming steps need no decision: every running request decodes and none can enter."""
    state, clock = t.state, t.clock
    running = state[at.RUNNING_COUNT]
    if not state[at.LEAP] or running == 0 or state[at.PREFILLING_COUNT] or running > state[at.BUDGET_MAX]:
        return False
    if state[at.DROPS_IDLE] and state[at.DROP_ANSWERED] == 0:
        return False
    # While memory only shrinks none can enter, unless a request left in this step.
    if state[at.WAITING_COUNT]:
        if state[at.BLOCKED] == at.OPEN or state[at.FINISHED_COUNT]:
            return False
        # Without rule 9 the first request needs less when blocks are evicted that it would start from.
        looked_up = state[at.BLOCKED] == at.SHORT and state[at.CACHING]
        if looked_up and (not state[at.FULL_ISL] or state[at.LOOKED_SLOT] < 0):
            return False
    if state[at.ASYNCHRONOUS] and not _is_steady(t):
        return False
    if state[at.INPUT_POSITION] < state[at.INPUT_LENGTH] or state[at.INPUT_LAST]:
        return True
    return bool(clock[at.NOW_S] < clock[at.UNTIL_S])


@compile_part
def _is_steady(t: Tables) -> bool:
    """Whether the step on the device computes a token of each running request, not its first, and no more."""
    table, running, state = t.requests, t.running, t.state
    if state[at.FLIGHT_COUNT] != state[at.RUNNING_COUNT]:
        return False
    for position in range(state[at.RUNNING_COUNT]):
        slot = running[position]
        if table[at.COMING, slot] != 1 or t.times[at.LAST_TOKEN_S, slot] < 0.0:
            return False
    return True


@compile_part
def leap(t: Tables) -> None:
    """Take decode steps until just before something can happen."""
    running, state, clock = t.running, t.state, t.clock
    n, size = state[at.RUNNING_COUNT], state[at.BLOCK_SIZE]
    steps, context = _prepare(t)
    next_arrival_s = np.inf if state[at.INPUT_LAST] else clock[at.UNTIL_S]
    if state[at.INPUT_POSITION] < state[at.INPUT_LENGTH]:
        next_arrival_s = t.input_s[state[at.INPUT_POSITION]]
    host, host_slope = t.decode_lines[n, 0], t.decode_lines[n, 1]
    gpu, gpu_slope = t.decode_lines[n, 2], t.decode_lines[n, 3]
    caching, asynchronous = state[at.CACHING], state[at.ASYNCHRONOUS]
    # A policy that chooses victims is asked before a step that needs more than is free; either way such a
    # step is an ordinary one.
    free, now, used_seconds = state[at.FREE], clock[at.NOW_S], clock[at.USED_BLOCK_SECONDS]
    total, flight_s = state[at.NUM_BLOCKS], clock[at.FLIGHT_S]
    # One that drops idle sessions is asked while growth could reach them.
    retained_in_books = state[at.RETAINED_IN_BOOKS] if state[at.DROPS_IDLE] else -n
    done = 0
    residue = 0
    while done < steps and now < next_arrival_s:
        demand = t.crossing[residue]
        if demand > free or free - retained_in_books < n:
            break
        free -= demand
        if caching:
            _grow(t, residue, done)
            if state[at.BLOCKED] == at.SHORT and state[at.WAITING_COUNT] and state[at.LOOKED_SLOT] < 0:
                steps = done + 1  # the first waiting request may need less than it did
            state[at.IDLE_BLOCKS] = state[at.RETAINED]
        host_s = host + host_slope * context
        gpu_s = gpu + gpu_slope * context
        duration = gpu_s if gpu_s > host_s else host_s
        if asynchronous:
            duration, flight_s = flight_s, duration
        before_s = now
        now += duration
        if done == 0:
            _count_first_gaps(t, now)
        else:
            count_gaps(t, now - before_s, n)
        used_seconds += (total - free) * duration
        context += n
        done += 1
        state[at.STEPS] += 1
        if state[at.STEPS] >= state[at.TIMELINE_DUE]:
            clock[at.NOW_S] = now
            offer_timeline(t, total - free, n)
        residue = residue - 1 if residue else size - 1
    state[at.FREE] = free
    clock[at.NOW_S] = now
    clock[at.USED_BLOCK_SECONDS] = used_seconds
    clock[at.FLIGHT_S] = flight_s
    state[at.SCHEDULED_TOKENS] += n * done
    if done:
        state[at.USED] = total - free
        for position in range(n):
            slot = running[position]
            t.times[at.LAST_TOKEN_S, slot] = now
            t.requests[at.TOKENS, slot] += done
            t.requests[at.COMPUTED, slot] += done
            t.requests[at.HELD, slot] = -(-t.requests[at.COMPUTED, slot] // size)


@compile_part
def _count_first_gaps(t: Tables, now_s: float) -> None:
    """Count the gaps before the tokens of a leap's first step; later ones are as long as their steps."""
    alike, alike_s = 0, -1.0
    for position in range(t.state[at.RUNNING_COUNT]):
        earlier_s = t.times[at.LAST_TOKEN_S, t.running[position]]
        if earlier_s == alike_s:
            alike += 1
        else:
            count_gaps(t, now_s - alike_s, alike)
            alike_s, alike = earlier_s, 1
    count_gaps(t, now_s - alike_s, alike)


@compile_part
def _prepare(t: Tables) -> tuple[int, int]:
    """Sort the running requests by their place within their last block; return the most steps and the first
    step's context."""
    table, running, state, crossing = t.requests, t.running, t.state, t.crossing
    n, size = state[at.RUNNING_COUNT], state[at.BLOCK_SIZE]
    steps = state[at.CHECK_AT] - state[at.STEPS]
    context = 0
    crossing[:] = 0
    for position in range(n):
        slot = running[position]
        # The step in which a request finishes is an ordinary one, and that in which it gets nothing more.
        left = table[at.TARGET, slot] - table[at.TOKENS, slot] - 1
        left = min(left, table[at.LIMIT, slot] - 1 - table[at.COMPUTED, slot])
        if left < steps:
            steps = left
        context += table[at.COMPUTED, slot] + 1
        crossing[table[at.COMPUTED, slot] % size] += 1
    if state[at.CACHING]:
        start = 0
        for residue in range(size):
            t.by_crossing[0, residue] = start
            start += crossing[residue]
        for position in range(n):
            slot = running[position]
            residue = table[at.COMPUTED, slot] % size
            t.by_crossing[1, t.by_crossing[0, residue]] = slot
            t.by_crossing[0, residue] += 1
    return steps, context


@compile_part
def _grow(t: Tables, residue: int, done: int) -> None:
    """Take and label the blocks of a leap's step, `done` steps after its first: of the requests at `residue`
    when it began, whose last block is full, and of those whose last block this step fills."""
    table, state = t.requests, t.state
    size, count = state[at.BLOCK_SIZE], t.crossing[residue]
    first = t.by_crossing[0, residue] - count
    for position in range(first, first + count):
        slot = t.by_crossing[1, position]
        held = table[at.HELD, slot]
        t.blocks.held[table[at.SEAT, slot], held] = take_block(t.blocks, state)
        table[at.HELD, slot] = held + 1
    ahead = 0 if state[at.ASYNCHRONOUS] else 1  # asynchronously a token is known a step later
    filling = residue - ahead if residue >= ahead else size - 1
    count = t.crossing[filling]
    first = t.by_crossing[0, filling] - count
    for position in range(first, first + count):
        slot = t.by_crossing[1, position]
        label_up_to(t.requests, t.blocks, t.state, slot, table[at.COMPUTED, slot] + done + ahead)
