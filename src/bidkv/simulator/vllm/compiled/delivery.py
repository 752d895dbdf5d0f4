"""The second half of a step in the compiled kernel: time passes, tokens come out, complete requests leave."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.arrivals import forget_answers
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.scheduling import close_life
from bidkv.simulator.vllm.compiled.timing import offer_timeline, price_scheduled


@compile_part
def pass_time(t: Tables) -> None:
    """Rule 12: the step runs, positions advance and tokens come out."""
    table, scheduled, state, clock = t.requests, t.scheduled, t.state, t.clock
    state[at.USED] = state[at.NUM_BLOCKS] - state[at.FREE]
    duration = price_scheduled(t)
    now = clock[at.NOW_S] + duration
    clock[at.NOW_S] = now
    clock[at.STEP_S] = duration
    state[at.STEPS] += 1
    finished = 0
    for position in range(state[at.SCHEDULED_COUNT]):
        slot = scheduled[0, position]
        table[at.COMPUTED, slot] += scheduled[1, position]
        if table[at.COMPUTED, slot] == table[at.TOKENS, slot]:
            if table[at.PREFILLING, slot]:
                table[at.PREFILLING, slot] = 0
                state[at.PREFILLING_COUNT] -= 1
            table[at.TOKENS, slot] += 1
            if t.times[at.FIRST_TOKEN_S, slot] < 0.0:
                t.times[at.FIRST_TOKEN_S, slot] = now
            if table[at.TOKENS, slot] >= table[at.TARGET, slot]:
                scheduled[0, finished] = slot
                table[at.PLACE, slot] = at.NOWHERE
                finished += 1
    state[at.FINISHED_COUNT] = finished
    state[at.INDEX] = 0
    state[at.PHASE] = at.P_RETIRE


@compile_part
def retire(t: Tables) -> int:
    """Let the requests that the step completed leave, one by one, and end the step."""
    table, state = t.requests, t.state
    while state[at.INDEX] < state[at.FINISHED_COUNT]:
        _recycle_slot(t)
        if state[at.OUTPUT_LENGTH] >= t.outputs.shape[1]:
            return at.OUTPUT_FULL
        slot = t.scheduled[0, state[at.INDEX]]
        state[at.INDEX] += 1
        state[at.FREE] += table[at.HELD, slot]
        table[at.HELD, slot] = 0
        close_life(table, state, slot)
        _put_out(t, slot)
        state[at.RECYCLE] = slot
        forget_answers(state)
        if state[at.HEARS_FINISH]:
            state[at.EVENT_SLOT] = slot
            return at.TELL_FINISH
    _recycle_slot(t)
    if state[at.FINISHED_COUNT]:
        _drop_finished(t)
    t.clock[at.USED_BLOCK_SECONDS] += state[at.USED] * t.clock[at.STEP_S]
    offer_timeline(t, state[at.USED], state[at.RUNNING_COUNT])
    state[at.PHASE] = at.P_LEAP
    return at.GO_ON


@compile_part
def _recycle_slot(t: Tables) -> None:
    """The slot of the request that left last is unused from now on: its policy has been told."""
    state = t.state
    if state[at.RECYCLE] >= 0:
        t.free_slots[state[at.FREE_SLOTS]] = state[at.RECYCLE]
        state[at.FREE_SLOTS] += 1
        state[at.RECYCLE] = -1


@compile_part
def _put_out(t: Tables, slot: int) -> None:
    """Write the finished request's row of the output."""
    table, state, row = t.requests, t.state, t.state[at.OUTPUT_LENGTH]
    now = t.clock[at.NOW_S]
    t.outputs[at.OUT_UID, row] = table[at.UID, slot]
    t.outputs[at.OUT_TOKENS, row] = table[at.TOKENS, slot] - table[at.PROMPT, slot]
    t.outputs[at.OUT_PREEMPTIONS, row] = table[at.PREEMPTIONS, slot]
    t.outputs_s[at.OUT_FIRST_S, row] = t.times[at.FIRST_TOKEN_S, slot]
    t.outputs_s[at.OUT_FINISH_S, row] = now
    state[at.OUTPUT_LENGTH] = row + 1
    state[at.COMPLETIONS] += 1
    t.clock[at.LAST_FINISH_S] = now


@compile_part
def _drop_finished(t: Tables) -> None:
    """Take all that ended with this step off the running list at once, after the last of them was told."""
    places, running, state = t.requests[at.PLACE], t.running, t.state
    kept = 0
    for position in range(state[at.RUNNING_COUNT]):
        slot = running[position]
        if places[slot] != at.NOWHERE:
            running[kept] = slot
            kept += 1
    state[at.RUNNING_COUNT] = kept
