"""Arrivals into the compiled kernel."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.blocks import void_look
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Array, Tables
from bidkv.simulator.vllm.compiled.queue import append_waiting


@compile_part
def forget_answers(state: Array) -> None:
    """An event happened: the policy's answers about admissions no longer hold."""
    state[at.NEXT_SLOT] = -1
    state[at.GATE_SHUT] = 0
    state[at.RESERVE] = -1
    state[at.DROP_ANSWERED] = 0


@compile_part
def is_idle(state: Array) -> bool:
    """Whether nothing runs, waits or is being computed."""
    if state[at.RUNNING_COUNT] or state[at.WAITING_COUNT]:
        return False
    return bool(state[at.FLIGHT_COUNT] < 0 or state[at.FLIGHT_EMPTY])


@compile_part
def take_arrivals(t: Tables) -> int:
    """Queue what has arrived; on an empty engine, let time pass to the next arrival."""
    state, clock = t.state, t.clock
    while True:
        idle = is_idle(state)
        position = state[at.INPUT_POSITION]
        if position >= state[at.INPUT_LENGTH]:
            if state[at.INPUT_LAST] == 0 and (idle or clock[at.NOW_S] >= clock[at.UNTIL_S]):
                return at.NEED_INPUT
            if idle:
                return at.DONE
            break
        arrival_s = t.input_s[position]
        if idle and arrival_s > clock[at.NOW_S]:
            clock[at.NOW_S] = arrival_s
        if arrival_s > clock[at.NOW_S]:
            break
        if state[at.FREE_SLOTS] == 0:
            return at.NEED_SLOTS
        slot = _fill_slot(t, position)
        append_waiting(t.requests, t.times, t.heap, t.state, slot)
        forget_answers(state)
        if state[at.HEARS_ARRIVAL]:
            state[at.EVENT_SLOT] = slot
            return at.TELL_ARRIVAL
    state[at.PHASE] = at.P_BEFORE
    return at.GO_ON


@compile_part
def _fill_slot(t: Tables, position: int) -> int:
    """Give the request at `position` of the input a slot."""
    table, inputs, state = t.requests, t.inputs, t.state
    state[at.FREE_SLOTS] -= 1
    slot: int = t.free_slots[state[at.FREE_SLOTS]]
    state[at.INPUT_POSITION] += 1
    state[at.ARRIVALS] += 1
    for row in range(at.COMPUTED, at.LABELED + 1):
        table[row, slot] = 0
    table[at.UID, slot] = inputs[at.IN_UID, position]
    table[at.PROMPT, slot] = table[at.TOKENS, slot] = inputs[at.IN_PROMPT, position]
    table[at.TARGET, slot] = inputs[at.IN_TARGET, position]
    table[at.LIMIT, slot] = inputs[at.IN_LIMIT, position]
    table[at.PRIORITY, slot] = inputs[at.IN_PRIORITY, position]
    table[at.RANK, slot] = inputs[at.IN_RANK, position]
    table[at.FIRST_SEGMENT, slot] = inputs[at.IN_FIRST_SEGMENT, position]
    table[at.SEGMENT_COUNT, slot] = inputs[at.IN_SEGMENT_COUNT, position]
    table[at.LAST_NODE, slot] = inputs[at.IN_LAST_NODE, position]
    table[at.PAST, slot] = inputs[at.IN_PAST, position]
    table[at.SHARED, slot] = inputs[at.IN_SHARED, position]
    table[at.GOES_ON, slot] = inputs[at.IN_GOES_ON, position]
    table[at.CACHED, slot] = -1
    table[at.PLACE, slot] = at.WAITING
    table[at.EXCLUDED, slot] = 0
    t.times[at.ARRIVAL_S, slot] = t.input_s[position]
    t.times[at.FIRST_TOKEN_S, slot] = t.times[at.LAST_TOKEN_S, slot] = -1.0
    if state[at.LOOKED_SLOT] == slot:
        void_look(state)
    return slot
