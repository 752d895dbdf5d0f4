"""Arrivals into the compiled kernel."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.queue import append_waiting


@compile_part
def forget_answers(state: at.Array) -> None:
    """An event happened: the policy's answers about admissions no longer hold."""
    state[at.NEXT_SLOT] = -1
    state[at.GATE_SHUT] = 0
    state[at.RESERVE] = -1


@compile_part
def take_arrivals(t: Tables) -> int:
    """Queue what has arrived; on an empty engine, let time pass to the next arrival."""
    state, clock = t.state, t.clock
    while True:
        idle = state[at.RUNNING_COUNT] == 0 and state[at.WAITING_COUNT] == 0
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
        append_waiting(t, slot)
        forget_answers(state)
        if state[at.HEARS_ARRIVAL]:
            state[at.EVENT_SLOT] = slot
            return at.TELL_ARRIVAL
    state[at.PHASE] = at.P_BEFORE
    return at.GO_ON


@compile_part
def _fill_slot(t: Tables, position: int) -> int:
    """Give the request at `position` of the input a slot."""
    table, state = t.requests, t.state
    state[at.FREE_SLOTS] -= 1
    slot: int = t.free_slots[state[at.FREE_SLOTS]]
    state[at.INPUT_POSITION] += 1
    state[at.ARRIVALS] += 1
    for row in range(at.COMPUTED, at.PREFILLING + 1):
        table[row, slot] = 0
    table[at.UID, slot] = t.inputs[0, position]
    table[at.PROMPT, slot] = table[at.TOKENS, slot] = t.inputs[1, position]
    table[at.TARGET, slot] = t.inputs[2, position]
    table[at.PLACE, slot] = at.WAITING
    table[at.EXCLUDED, slot] = 0
    t.times[at.ARRIVAL_S, slot] = t.input_s[position]
    t.times[at.FIRST_TOKEN_S, slot] = -1.0
    return slot
