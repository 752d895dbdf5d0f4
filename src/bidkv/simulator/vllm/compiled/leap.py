"""Leaps of the compiled kernel: steps that only decode, in a loop of a few operations each."""

from __future__ import annotations

import numpy as np

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.timing import offer_timeline


@compile_part
def can_leap(t: Tables) -> bool:
    """Whether the coming steps need no decision: every running request decodes and none can enter."""
    state, clock = t.state, t.clock
    running = state[at.RUNNING_COUNT]
    if not state[at.LEAP] or running == 0 or state[at.PREFILLING_COUNT] or running > state[at.BUDGET_MAX]:
        return False
    # While memory only shrinks none can enter, unless a request left in this step.
    if state[at.WAITING_COUNT] and (state[at.BLOCKED] == 0 or state[at.FINISHED_COUNT]):
        return False
    if state[at.INPUT_POSITION] < state[at.INPUT_LENGTH] or state[at.INPUT_LAST]:
        return True
    return bool(clock[at.NOW_S] < clock[at.UNTIL_S])


@compile_part
def leap(t: Tables) -> None:
    """Take decode steps until just before something can happen."""
    table, running, state, clock, crossing = t.requests, t.running, t.state, t.clock, t.crossing
    n, size = state[at.RUNNING_COUNT], state[at.BLOCK_SIZE]
    steps = np.int64(1) << 60
    context = 0
    crossing[:] = 0
    for position in range(n):
        slot = running[position]
        left = table[at.TARGET, slot] - table[at.TOKENS, slot]
        if left < steps:
            steps = left
        context += table[at.TOKENS, slot]
        crossing[table[at.COMPUTED, slot] % size] += 1
    steps -= 1  # the step in which a request finishes is an ordinary one
    next_arrival = np.inf if state[at.INPUT_LAST] else clock[at.UNTIL_S]
    if state[at.INPUT_POSITION] < state[at.INPUT_LENGTH]:
        next_arrival = t.input_s[state[at.INPUT_POSITION]]
    host, host_slope = t.decode_lines[n, 0], t.decode_lines[n, 1]
    gpu, gpu_slope = t.decode_lines[n, 2], t.decode_lines[n, 3]
    # A policy that chooses victims is asked before a step that needs more than is free; either way such a
    # step is an ordinary one.
    free, now, used_seconds = state[at.FREE], clock[at.NOW_S], clock[at.USED_BLOCK_SECONDS]
    total = state[at.NUM_BLOCKS]
    done = 0
    residue = 0
    while done < steps and now < next_arrival:
        demand = crossing[residue]
        if demand > free:
            break
        free -= demand
        host_s = host + host_slope * context
        gpu_s = gpu + gpu_slope * context
        duration = gpu_s if gpu_s > host_s else host_s
        now += duration
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
    state[at.SCHEDULED_TOKENS] += n * done
    if done:
        state[at.USED] = total - free
        for position in range(n):
            slot = running[position]
            table[at.TOKENS, slot] += done
            table[at.COMPUTED, slot] += done
            table[at.HELD, slot] = -(-table[at.COMPUTED, slot] // size)
