"""The step engine compiled, with leaps: the same decisions as `simulator.engine`, many times faster.

A resumable state machine over plain arrays. It runs until it needs Python: input, room, an answer of the
policy, or to tell the policy of an event it listens to. Between events a batch that only decodes needs no
decisions, so its steps are taken in a tight loop of a few operations each (the leap): only the clock, the
growing context and the blocks demanded by those that cross a block's end in that very step.

First come first served without prefix caching; `simulator.engine` is the reference and covers the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit

from bidkv.simulator.vllm.compiled.layout import (
    ADMISSIONS,
    ARRIVAL_S,
    ARRIVALS,
    ASK_NEXT,
    ASK_RESERVE,
    ASK_VICTIMS,
    BLOCK_SIZE,
    BLOCKED,
    BLOCKS_FREED,
    BUDGET,
    BUDGET_MAX,
    CHOOSES_NEXT,
    CHOOSES_VICTIMS,
    CHUNKED,
    COMPLETIONS,
    COMPUTED,
    DONE,
    EMPTY_STEP_S,
    EVENT_LOST,
    EVENT_SLOT,
    EXCLUDED,
    FINISHED_COUNT,
    FIRST_TOKEN_S,
    FREE,
    FREE_SLOTS,
    FULL_ISL,
    GATE_SHUT,
    GRAPH_LIMIT,
    HEAD,
    HEARS_ADMIT,
    HEARS_ARRIVAL,
    HEARS_FINISH,
    HEARS_PREEMPT,
    HELD,
    HIGH,
    INDEX,
    INPUT_LAST,
    INPUT_LENGTH,
    INPUT_POSITION,
    KEEPS_RESERVE,
    LAST_FINISH_S,
    LEAP,
    MAX_SEQS,
    MODEL_LEN,
    MOST_PREEMPTIONS,
    NAMED,
    NEED_INPUT,
    NEED_SLOTS,
    NEXT,
    NEXT_SLOT,
    NOW_S,
    NOWHERE,
    NUM_BLOCKS,
    OUT_FINISH_S,
    OUT_FIRST_S,
    OUT_PREEMPTIONS,
    OUT_TOKENS,
    OUT_UID,
    OUTPUT_FULL,
    OUTPUT_LENGTH,
    P_ADMIT,
    P_ARRIVE,
    P_BEFORE,
    P_LEAP,
    P_PASS_TIME,
    P_RETIRE,
    P_RUN,
    P_START,
    PHASE,
    PLACE,
    PREEMPTED_BY_POLICY,
    PREEMPTED_COUNT,
    PREEMPTION_TOTAL,
    PREEMPTIONS,
    PREFILLING,
    PREFILLING_COUNT,
    PREVIOUS,
    PROMPT,
    RECOMPUTED,
    RECYCLE,
    RESERVE,
    RUNNING,
    RUNNING_COUNT,
    SCHEDULED_COUNT,
    SCHEDULED_TOKENS,
    START,
    STEP_S,
    STEPS,
    TAIL,
    TARGET,
    TELL_ADMIT,
    TELL_ARRIVAL,
    TELL_FINISH,
    TELL_PREEMPT,
    THRESHOLD,
    TIMELINE_DUE,
    TIMELINE_LENGTH,
    TIMELINE_STRIDE,
    TOKENS,
    TOKENS_LOST,
    UID,
    UNTIL_S,
    USED,
    USED_BLOCK_SECONDS,
    WAITING,
    WAITING_COUNT,
    WATERMARK,
)

Array = Any


@njit(cache=True)
def block_demand(table: Array, order: Array, state: Array) -> int:
    """Blocks the running list takes in the coming step, without those marked EXCLUDED."""
    size = state[BLOCK_SIZE]
    budget = state[BUDGET_MAX]
    threshold = state[THRESHOLD]
    demand = 0
    for position in range(state[RUNNING_COUNT]):
        slot = order[position]
        if table[EXCLUDED, slot]:
            continue
        tokens = table[TOKENS, slot] - table[COMPUTED, slot]
        if 0 < threshold < tokens:
            tokens = threshold
        if tokens > budget:
            tokens = budget
        budget -= tokens
        missing = -(-(table[COMPUTED, slot] + tokens) // size) - table[HELD, slot]
        if missing > 0:
            demand += missing
        if budget <= 0:
            break
    return demand


@njit(cache=True)
def _unlink(table: Array, state: Array, slot: int) -> None:
    """Take `slot` out of the waiting list."""
    before, after = table[PREVIOUS, slot], table[NEXT, slot]
    if before >= 0:
        table[NEXT, before] = after
    else:
        state[HEAD] = after
    if after >= 0:
        table[PREVIOUS, after] = before
    else:
        state[TAIL] = before
    state[WAITING_COUNT] -= 1


@njit(cache=True)
def _forget_answers(state: Array) -> None:
    state[NEXT_SLOT] = -1
    state[GATE_SHUT] = 0
    state[RESERVE] = -1


@njit(cache=True)
def _close_life(table: Array, state: Array, slot: int) -> None:
    computed, high = table[COMPUTED, slot], table[HIGH, slot]
    again = min(computed, high) - table[START, slot]
    if again > 0:
        state[RECOMPUTED] += again
    table[HIGH, slot] = max(high, computed)


@njit(cache=True)
def _prefill_step_s(
    state: Array,
    coefficients: Array,
    padded: Array,
    tokens: int,
    attention: float,
    decodes: int,
    context: int,
    prefills: int,
) -> float:
    """`StepTimeProfile.step_s` for a step with prefill; `tokens` counts decodes too."""
    regime, launched = 2, tokens
    if tokens <= state[GRAPH_LIMIT]:
        regime, launched = 1, padded[tokens]
    slowest = 0.0
    for part in range(2):
        line = coefficients[regime, part]
        cost = (
            line[0]
            + line[1] * launched
            + line[2] * decodes
            + line[3] * context
            + line[4] * attention
            + line[5] * prefills
        )
        if context > tokens:
            cost += line[6]
        if part == 0 or cost > slowest:
            slowest = cost
    return slowest


@njit(cache=True)
def _offer_timeline(
    state: Array, clock: Array, line_i: Array, line_s: Array, used: int, running: int
) -> None:
    """`TimelineRecorder.offer`."""
    if state[STEPS] < state[TIMELINE_DUE]:
        return
    n = state[TIMELINE_LENGTH]
    line_s[n] = clock[NOW_S]
    line_i[0, n], line_i[1, n], line_i[2, n], line_i[3, n] = (
        used,
        running,
        state[WAITING_COUNT],
        state[PREEMPTION_TOTAL],
    )
    n += 1
    if n >= line_s.shape[0]:
        kept = 0
        for source in range(0, n, 2):
            line_s[kept] = line_s[source]
            for row in range(4):
                line_i[row, kept] = line_i[row, source]
            kept += 1
        n = kept
        state[TIMELINE_STRIDE] *= 2
    state[TIMELINE_LENGTH] = n
    state[TIMELINE_DUE] = state[STEPS] + state[TIMELINE_STRIDE]


@njit(cache=True)
def _leap(
    table: Array,
    order: Array,
    state: Array,
    clock: Array,
    decode_lines: Array,
    crossing: Array,
    in_s: Array,
    line_i: Array,
    line_s: Array,
) -> None:
    """Take decode steps until just before something can happen."""
    n, size = state[RUNNING_COUNT], state[BLOCK_SIZE]
    steps = np.int64(1) << 60
    context = 0
    crossing[:] = 0
    for position in range(n):
        slot = order[position]
        left = table[TARGET, slot] - table[TOKENS, slot]
        if left < steps:
            steps = left
        context += table[TOKENS, slot]
        crossing[table[COMPUTED, slot] % size] += 1
    steps -= 1  # the step in which somebody finishes is an ordinary one
    next_arrival = np.inf if state[INPUT_LAST] else clock[UNTIL_S]
    if state[INPUT_POSITION] < state[INPUT_LENGTH]:
        next_arrival = in_s[state[INPUT_POSITION]]
    host, host_slope = decode_lines[n, 0], decode_lines[n, 1]
    gpu, gpu_slope = decode_lines[n, 2], decode_lines[n, 3]
    # A policy that chooses victims is asked before a step that needs more than is free; either way such a
    # step is an ordinary one.
    free, now, used_seconds = state[FREE], clock[NOW_S], clock[USED_BLOCK_SECONDS]
    total = state[NUM_BLOCKS]
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
        state[STEPS] += 1
        if state[STEPS] >= state[TIMELINE_DUE]:
            clock[NOW_S] = now
            _offer_timeline(state, clock, line_i, line_s, total - free, n)
        residue = residue - 1 if residue else size - 1
    state[FREE] = free
    clock[NOW_S] = now
    clock[USED_BLOCK_SECONDS] = used_seconds
    state[SCHEDULED_TOKENS] += n * done
    if done:
        state[USED] = total - free
        for position in range(n):
            slot = order[position]
            table[TOKENS, slot] += done
            table[COMPUTED, slot] += done
            table[HELD, slot] = -(-table[COMPUTED, slot] // size)


@njit(cache=True)
def stops(
    table: Array,
    times: Array,
    order: Array,
    scheduled: Array,
    free_slots: Array,
    state: Array,
    clock: Array,
    in_s: Array,
    in_i: Array,
    out_i: Array,
    out_s: Array,
    line_i: Array,
    line_s: Array,
    coefficients: Array,
    padded: Array,
    decode_lines: Array,
    crossing: Array,
) -> Iterator[int]:
    """Run on at every `next`, until Python is needed; yield why.

    A generator keeps its arrays: handing all of them over anew costs a microsecond a call, more than most of
    the work between two stops.
    """
    size = state[BLOCK_SIZE]
    while True:
        phase = state[PHASE]
        if phase == P_ARRIVE:
            while True:
                idle = state[RUNNING_COUNT] == 0 and state[WAITING_COUNT] == 0
                position = state[INPUT_POSITION]
                if position >= state[INPUT_LENGTH]:
                    if state[INPUT_LAST] == 0 and (idle or clock[NOW_S] >= clock[UNTIL_S]):
                        yield NEED_INPUT
                        continue
                    if idle:
                        yield DONE
                        continue
                    break
                arrival = in_s[position]
                if idle and arrival > clock[NOW_S]:
                    clock[NOW_S] = arrival
                if arrival > clock[NOW_S]:
                    break
                if state[FREE_SLOTS] == 0:
                    yield NEED_SLOTS
                    continue
                state[FREE_SLOTS] -= 1
                slot = free_slots[state[FREE_SLOTS]]
                state[INPUT_POSITION] += 1
                state[ARRIVALS] += 1
                for row in range(COMPUTED, PREFILLING + 1):
                    table[row, slot] = 0
                table[UID, slot] = in_i[0, position]
                table[PROMPT, slot] = table[TOKENS, slot] = in_i[1, position]
                table[TARGET, slot] = in_i[2, position]
                table[PLACE, slot] = WAITING
                table[EXCLUDED, slot] = 0
                times[ARRIVAL_S, slot] = arrival
                times[FIRST_TOKEN_S, slot] = -1.0
                table[NEXT, slot] = -1
                table[PREVIOUS, slot] = state[TAIL]
                if state[TAIL] >= 0:
                    table[NEXT, state[TAIL]] = slot
                else:
                    state[HEAD] = slot
                state[TAIL] = slot
                state[WAITING_COUNT] += 1
                _forget_answers(state)
                if state[HEARS_ARRIVAL]:
                    state[EVENT_SLOT] = slot
                    yield TELL_ARRIVAL
            state[PHASE] = P_BEFORE

        elif phase == P_BEFORE:
            state[PHASE] = P_START
            running = state[RUNNING_COUNT]
            if state[CHOOSES_VICTIMS] and running >= 2:
                bound = running + (state[BUDGET_MAX] // size + 1 if state[PREFILLING_COUNT] else 0)
                if state[FREE] < bound and block_demand(table, order, state) > state[FREE]:
                    yield ASK_VICTIMS

        elif phase == P_START:
            state[INDEX] = 0
            state[BUDGET] = state[BUDGET_MAX]
            state[SCHEDULED_COUNT] = 0
            state[PREEMPTED_COUNT] = 0
            state[BLOCKED] = 0
            state[PHASE] = P_RUN

        elif phase == P_RUN:
            state[PHASE] = P_ADMIT
            while state[INDEX] < state[RUNNING_COUNT] and state[BUDGET] > 0:
                slot = order[state[INDEX]]
                computed = table[COMPUTED, slot]
                tokens = table[TOKENS, slot] - computed
                if 0 < state[THRESHOLD] < tokens and state[RUNNING_COUNT] + state[WAITING_COUNT] > 1:
                    tokens = state[THRESHOLD]
                tokens = min(tokens, state[BUDGET], state[MODEL_LEN] - 1 - computed)
                if tokens <= 0:
                    state[INDEX] += 1
                    continue
                need = -(-(computed + tokens) // size) - table[HELD, slot]
                if need > state[FREE]:
                    state[RUNNING_COUNT] -= 1
                    victim = order[state[RUNNING_COUNT]]
                    lost = table[COMPUTED, victim]
                    if table[PREFILLING, victim]:
                        table[PREFILLING, victim] = 0
                        state[PREFILLING_COUNT] -= 1
                    state[FREE] += table[HELD, victim]
                    _close_life(table, state, victim)
                    table[HELD, victim] = 0
                    table[COMPUTED, victim] = 0
                    table[PREEMPTIONS, victim] += 1
                    if table[PREEMPTIONS, victim] > state[MOST_PREEMPTIONS]:
                        state[MOST_PREEMPTIONS] = table[PREEMPTIONS, victim]
                    table[PLACE, victim] = WAITING
                    state[PREEMPTION_TOTAL] += 1
                    state[PREEMPTED_COUNT] += 1
                    state[TOKENS_LOST] += lost
                    state[BLOCKS_FREED] += -(-lost // size)
                    if table[NAMED, victim] == state[STEPS] + 1:
                        state[PREEMPTED_BY_POLICY] += 1
                    table[PREVIOUS, victim] = -1
                    table[NEXT, victim] = state[HEAD]
                    if state[HEAD] >= 0:
                        table[PREVIOUS, state[HEAD]] = victim
                    else:
                        state[TAIL] = victim
                    state[HEAD] = victim
                    state[WAITING_COUNT] += 1
                    _forget_answers(state)
                    if victim != slot:
                        state[PHASE] = P_RUN  # look at the same request again
                    if state[HEARS_PREEMPT]:
                        state[EVENT_SLOT], state[EVENT_LOST] = victim, lost
                        yield TELL_PREEMPT
                    break
                if need > 0:
                    state[FREE] -= need
                    table[HELD, slot] += need
                scheduled[0, state[SCHEDULED_COUNT]] = slot
                scheduled[1, state[SCHEDULED_COUNT]] = tokens
                state[SCHEDULED_COUNT] += 1
                state[BUDGET] -= tokens
                state[INDEX] += 1

        elif phase == P_ADMIT:
            state[PHASE] = P_PASS_TIME
            if state[PREEMPTED_COUNT]:
                continue
            while True:
                if state[WAITING_COUNT] == 0 or state[RUNNING_COUNT] >= state[MAX_SEQS]:
                    state[BLOCKED] = 1
                    break
                if state[BUDGET] <= 0:
                    break
                slot = state[HEAD]
                if state[CHOOSES_NEXT]:
                    if state[GATE_SHUT]:
                        state[BLOCKED] = 1
                        break
                    if state[NEXT_SLOT] < 0:
                        state[PHASE] = P_ADMIT
                        yield ASK_NEXT
                        break
                    slot = state[NEXT_SLOT]
                tokens = table[TOKENS, slot]
                if 0 < state[THRESHOLD] < tokens and state[RUNNING_COUNT] + state[WAITING_COUNT] > 1:
                    tokens = state[THRESHOLD]
                if tokens > state[BUDGET]:
                    if state[CHUNKED] == 0:
                        break
                    tokens = state[BUDGET]
                blocks = -(-tokens // size)
                needed = blocks
                if state[FULL_ISL]:
                    needed = max(needed, -(-min(table[TOKENS, slot], state[MODEL_LEN]) // size))
                kept_free = 0
                # Who does not fit at all is kept out whatever the reserve is, so nobody is asked for it.
                if state[RUNNING_COUNT] > 0 and needed <= state[FREE]:
                    kept_free = state[WATERMARK]
                    if state[KEEPS_RESERVE]:
                        if state[RESERVE] < 0:
                            state[PHASE] = P_ADMIT
                            yield ASK_RESERVE
                            break
                        kept_free = max(kept_free, state[RESERVE])
                if needed + kept_free > state[FREE]:
                    state[BLOCKED] = 1
                    break
                _unlink(table, state, slot)
                state[FREE] -= blocks
                table[HELD, slot] = blocks
                table[START, slot] = 0
                table[PREFILLING, slot] = 1
                table[PLACE, slot] = RUNNING
                state[PREFILLING_COUNT] += 1
                order[state[RUNNING_COUNT]] = slot
                state[RUNNING_COUNT] += 1
                scheduled[0, state[SCHEDULED_COUNT]] = slot
                scheduled[1, state[SCHEDULED_COUNT]] = tokens
                state[SCHEDULED_COUNT] += 1
                state[BUDGET] -= tokens
                state[ADMISSIONS] += 1
                _forget_answers(state)
                if state[HEARS_ADMIT]:
                    state[EVENT_SLOT] = slot
                    state[PHASE] = P_ADMIT
                    yield TELL_ADMIT
                    break

        elif phase == P_PASS_TIME:
            state[USED] = state[NUM_BLOCKS] - state[FREE]
            prefill_tokens, prefills, decodes, context = 0, 0, 0, 0
            attention = 0.0
            count = state[SCHEDULED_COUNT]
            for position in range(count):
                slot, tokens = scheduled[0, position], scheduled[1, position]
                computed = table[COMPUTED, slot]
                context += computed + tokens
                if tokens == 1 and table[TOKENS, slot] - computed == 1:
                    decodes += 1
                else:
                    prefills += 1
                    prefill_tokens += tokens
                    attention += tokens * (computed + tokens * 0.5)
            if count == 0:
                duration = clock[EMPTY_STEP_S]
            elif prefill_tokens == 0:
                host_s = decode_lines[decodes, 0] + decode_lines[decodes, 1] * context
                gpu_s = decode_lines[decodes, 2] + decode_lines[decodes, 3] * context
                duration = gpu_s if gpu_s > host_s else host_s
            else:
                duration = _prefill_step_s(
                    state,
                    coefficients,
                    padded,
                    prefill_tokens + decodes,
                    attention,
                    decodes,
                    context,
                    prefills,
                )
            state[SCHEDULED_TOKENS] += prefill_tokens + decodes
            clock[NOW_S] += duration
            clock[STEP_S] = duration
            state[STEPS] += 1
            finished = 0
            for position in range(count):
                slot = scheduled[0, position]
                table[COMPUTED, slot] += scheduled[1, position]
                if table[COMPUTED, slot] == table[TOKENS, slot]:
                    if table[PREFILLING, slot]:
                        table[PREFILLING, slot] = 0
                        state[PREFILLING_COUNT] -= 1
                    table[TOKENS, slot] += 1
                    if times[FIRST_TOKEN_S, slot] < 0.0:
                        times[FIRST_TOKEN_S, slot] = clock[NOW_S]
                    if table[TOKENS, slot] >= table[TARGET, slot]:
                        scheduled[0, finished] = slot
                        table[PLACE, slot] = NOWHERE
                        finished += 1
            state[FINISHED_COUNT] = finished
            state[INDEX] = 0
            state[PHASE] = P_RETIRE

        elif phase == P_RETIRE:
            while state[INDEX] < state[FINISHED_COUNT]:
                if state[RECYCLE] >= 0:
                    free_slots[state[FREE_SLOTS]] = state[RECYCLE]
                    state[FREE_SLOTS] += 1
                    state[RECYCLE] = -1
                if state[OUTPUT_LENGTH] >= out_i.shape[1]:
                    yield OUTPUT_FULL
                    continue
                slot = scheduled[0, state[INDEX]]
                state[INDEX] += 1
                state[FREE] += table[HELD, slot]
                table[HELD, slot] = 0
                _close_life(table, state, slot)
                row = state[OUTPUT_LENGTH]
                out_i[OUT_UID, row] = table[UID, slot]
                out_i[OUT_TOKENS, row] = table[TOKENS, slot] - table[PROMPT, slot]
                out_i[OUT_PREEMPTIONS, row] = table[PREEMPTIONS, slot]
                out_s[OUT_FIRST_S, row] = times[FIRST_TOKEN_S, slot]
                out_s[OUT_FINISH_S, row] = clock[NOW_S]
                state[OUTPUT_LENGTH] += 1
                state[COMPLETIONS] += 1
                clock[LAST_FINISH_S] = clock[NOW_S]
                state[RECYCLE] = slot
                _forget_answers(state)
                if state[HEARS_FINISH]:
                    state[EVENT_SLOT] = slot
                    yield TELL_FINISH
            if state[RECYCLE] >= 0:
                free_slots[state[FREE_SLOTS]] = state[RECYCLE]
                state[FREE_SLOTS] += 1
                state[RECYCLE] = -1
            # All that ended with this step leave the list at once, after the last of them was told.
            if state[FINISHED_COUNT]:
                kept = 0
                for position in range(state[RUNNING_COUNT]):
                    if table[PLACE, order[position]] != NOWHERE:
                        order[kept] = order[position]
                        kept += 1
                state[RUNNING_COUNT] = kept
            clock[USED_BLOCK_SECONDS] += state[USED] * clock[STEP_S]
            _offer_timeline(state, clock, line_i, line_s, state[USED], state[RUNNING_COUNT])
            state[PHASE] = P_LEAP

        else:  # P_LEAP
            state[PHASE] = P_ARRIVE
            running = state[RUNNING_COUNT]
            # Nobody can enter while memory only shrinks, unless something left in this step.
            nobody_enters = state[WAITING_COUNT] == 0 or (state[BLOCKED] == 1 and state[FINISHED_COUNT] == 0)
            if (
                state[LEAP]
                and running > 0
                and state[PREFILLING_COUNT] == 0
                and running <= state[BUDGET_MAX]
                and nobody_enters
                and (
                    state[INPUT_POSITION] < state[INPUT_LENGTH]
                    or state[INPUT_LAST] == 1
                    or clock[NOW_S] < clock[UNTIL_S]
                )
            ):
                _leap(table, order, state, clock, decode_lines, crossing, in_s, line_i, line_s)
