"""The second half of a step in the compiled kernel: time passes, tokens come out, complete requests leave."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.arrivals import forget_answers, is_idle
from bidkv.simulator.vllm.compiled.blocks import label_up_to
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Array, Tables
from bidkv.simulator.vllm.compiled.queue import remove_waiting
from bidkv.simulator.vllm.compiled.scheduling import close_life, release
from bidkv.simulator.vllm.compiled.timing import count_gaps, offer_timeline, price_scheduled


@compile_part
def pass_time(t: Tables) -> None:
    """Rules 12 and 18: the step runs, positions advance, and tokens come out."""
    state = t.state
    state[at.USED] = state[at.NUM_BLOCKS] - state[at.FREE]
    state[at.IDLE_BLOCKS] = state[at.RETAINED]
    duration_s = price_scheduled(t)
    state[at.STEPS] += 1
    state[at.INDEX] = 0
    state[at.FINISHED_COUNT] = 0
    state[at.PHASE] = at.P_RETIRE
    if not state[at.ASYNCHRONOUS]:
        _deliver_at_once(t, duration_s)
        return
    arriving, arriving_s = state[at.FLIGHT_COUNT], t.clock[at.FLIGHT_S]
    _launch(t, duration_s)
    t.clock[at.STEP_S] = 0.0
    if arriving >= 0:
        t.clock[at.NOW_S] += arriving_s
        t.clock[at.STEP_S] = arriving_s
        _deliver(t, 1 - state[at.FLIGHT_ROW], arriving)


@compile_part
def _time_token(t: Tables, slot: int, now: float, alike_s: float, alike: int) -> tuple[float, int]:
    """A token of `slot` comes out now; gaps that began at the same time are counted together.

    Returns when the gaps that are not counted yet began, and how many they are.
    """
    earlier_s = t.times[at.LAST_TOKEN_S, slot]
    t.times[at.LAST_TOKEN_S, slot] = now
    if earlier_s < 0.0:
        t.times[at.FIRST_TOKEN_S, slot] = now
    elif earlier_s == alike_s:
        alike += 1
    else:
        count_gaps(t, now - alike_s, alike)
        return earlier_s, 1
    return alike_s, alike


@compile_part
def _deliver_at_once(t: Tables, duration_s: float) -> None:
    """A synchronous step: the tokens of what was scheduled come out before the next one."""
    table, scheduled, state, clock = t.requests, t.scheduled, t.state, t.clock
    now = clock[at.NOW_S] + duration_s
    clock[at.NOW_S] = now
    clock[at.STEP_S] = duration_s
    finished, alike, alike_s = 0, 0, -1.0
    for position in range(state[at.SCHEDULED_COUNT]):
        slot = scheduled[0, position]
        table[at.COMPUTED, slot] += scheduled[1, position]
        if table[at.COMPUTED, slot] == table[at.TOKENS, slot]:
            if table[at.PREFILLING, slot]:
                table[at.PREFILLING, slot] = 0
                state[at.PREFILLING_COUNT] -= 1
            table[at.TOKENS, slot] += 1
            alike_s, alike = _time_token(t, slot, now, alike_s, alike)
            if table[at.TOKENS, slot] >= table[at.TARGET, slot]:
                scheduled[0, finished] = slot
                table[at.PLACE, slot] = at.NOWHERE
                finished += 1
    count_gaps(t, now - alike_s, alike)
    state[at.FINISHED_COUNT] = finished


@compile_part
def _launch(t: Tables, duration_s: float) -> None:
    """Hand what was scheduled to the device; its positions count as computed from now on."""
    table, scheduled, state = t.requests, t.scheduled, t.state
    row = 1 - state[at.FLIGHT_ROW]
    sampled = 0
    for position in range(state[at.SCHEDULED_COUNT]):
        slot = scheduled[0, position]
        table[at.COMPUTED, slot] += scheduled[1, position]
        if table[at.COMPUTED, slot] == table[at.TOKENS, slot] + table[at.COMING, slot]:
            if table[at.PREFILLING, slot]:
                table[at.PREFILLING, slot] = 0
                state[at.PREFILLING_COUNT] -= 1
            table[at.COMING, slot] += 1
            t.sampled[row, sampled] = slot
            sampled += 1
    state[at.FLIGHT_ROW] = row
    state[at.FLIGHT_COUNT] = sampled
    state[at.FLIGHT_EMPTY] = state[at.SCHEDULED_COUNT] == 0
    t.clock[at.FLIGHT_S] = duration_s


@compile_part
def _deliver(t: Tables, row: int, count: int) -> None:
    """The tokens of an asynchronous step come out."""
    table, state, now = t.requests, t.state, t.clock[at.NOW_S]
    finished, alike, alike_s = 0, 0, -1.0
    for position in range(count):
        slot = t.sampled[row, position]
        table[at.TOKENS, slot] += 1
        if table[at.COMING, slot]:
            table[at.COMING, slot] -= 1
            if state[at.CACHING]:  # rule 21
                label_up_to(
                    t.requests, t.blocks, t.state, slot, table[at.COMPUTED, slot] - table[at.COMING, slot]
                )
        alike_s, alike = _time_token(t, slot, now, alike_s, alike)
        if table[at.TOKENS, slot] >= table[at.TARGET, slot]:
            t.scheduled[0, finished] = slot
            if table[at.PLACE, slot] == at.RUNNING:
                table[at.PLACE, slot] = at.NOWHERE
            finished += 1
    count_gaps(t, now - alike_s, alike)
    state[at.FINISHED_COUNT] = finished
    if finished:
        _expect_nothing_of_finished(t)


@compile_part
def _expect_nothing_of_finished(t: Tables) -> None:
    """What the step on the device computes for requests that are complete is dropped."""
    state, row = t.state, t.state[at.FLIGHT_ROW]
    kept = 0
    for position in range(state[at.FLIGHT_COUNT]):
        slot = t.sampled[row, position]
        if t.requests[at.TOKENS, slot] < t.requests[at.TARGET, slot]:
            t.sampled[row, kept] = slot
            kept += 1
    state[at.FLIGHT_COUNT] = kept


@compile_part
def _end_if_idle(state: Array) -> None:
    if state[at.ASYNCHRONOUS] and is_idle(state):
        state[at.FLIGHT_COUNT] = -1  # it computes nothing, and no request is left to wait for its end


@compile_part
def abort(t: Tables, slot: int) -> None:
    """The client of the live request in `slot` gives it up between two steps; what it holds becomes free."""
    table, running, state = t.requests, t.running, t.state
    recycle_slot(t.free_slots, t.state)
    if table[at.PLACE, slot] == at.WAITING:
        remove_waiting(t.requests, t.times, t.heap, t.state, slot)
    else:
        kept = 0
        for position in range(state[at.RUNNING_COUNT]):
            if running[position] != slot:
                running[kept] = running[position]
                kept += 1
        state[at.RUNNING_COUNT] = kept
        state[at.PREFILLING_COUNT] -= table[at.PREFILLING, slot]
        release(t.requests, t.blocks, t.state, slot, False)
    table[at.PLACE, slot] = at.NOWHERE
    kept = 0
    for position in range(state[at.FLIGHT_COUNT]):  # what is computed for it is dropped
        if t.sampled[state[at.FLIGHT_ROW], position] != slot:
            t.sampled[state[at.FLIGHT_ROW], kept] = t.sampled[state[at.FLIGHT_ROW], position]
            kept += 1
    if state[at.FLIGHT_COUNT] > 0:
        state[at.FLIGHT_COUNT] = kept
    _end_if_idle(state)
    close_life(table, state, slot)
    forget_answers(state)
    state[at.ABORTS] += 1
    state[at.RECYCLE] = slot


@compile_part
def retire(t: Tables) -> int:
    """Let the requests that the step completed leave, one by one, and end the step."""
    table, state = t.requests, t.state
    while state[at.INDEX] < state[at.FINISHED_COUNT]:
        recycle_slot(t.free_slots, t.state)
        if state[at.OUTPUT_LENGTH] >= t.outputs.shape[1]:
            return at.OUTPUT_FULL
        slot = t.scheduled[0, state[at.INDEX]]
        state[at.INDEX] += 1
        if table[at.PLACE, slot] == at.WAITING:  # preempted while its last token was on its way
            remove_waiting(t.requests, t.times, t.heap, t.state, slot)
            table[at.PLACE, slot] = at.NOWHERE
        else:
            release(t.requests, t.blocks, t.state, slot, table[at.GOES_ON, slot] != 0)
        close_life(table, state, slot)
        _put_out(t, slot)
        state[at.RECYCLE] = slot
        forget_answers(state)
        if state[at.HEARS_FINISH]:
            state[at.EVENT_SLOT] = slot
            return at.TELL_FINISH
    recycle_slot(t.free_slots, t.state)
    if state[at.FINISHED_COUNT]:
        _drop_finished(t)
    _end_if_idle(state)
    t.clock[at.USED_BLOCK_SECONDS] += state[at.USED] * t.clock[at.STEP_S]
    offer_timeline(t, state[at.USED], state[at.RUNNING_COUNT])
    state[at.PHASE] = at.P_LEAP
    if state[at.STEPS] >= state[at.CHECK_AT]:
        return at.NEED_CHECK
    if state[at.CLOSED_LOOP] and state[at.FINISHED_COUNT]:
        return at.STEP_COMPLETED
    return at.GO_ON


@compile_part
def recycle_slot(free_slots: Array, state: Array) -> None:
    """The slot of the request that left last is unused from now on: its policy has been told."""
    if state[at.RECYCLE] >= 0:
        free_slots[state[at.FREE_SLOTS]] = state[at.RECYCLE]
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
    t.outputs[at.OUT_CACHED, row] = table[at.CACHED, slot]
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
