"""The running list of the compiled kernel: what it needs, what it gets, who is preempted."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.arrivals import forget_answers
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.queue import prepend_waiting


@compile_part
def sum_block_demand(table: at.Array, running: at.Array, state: at.Array) -> int:
    """Blocks the running list takes in the coming step, without those marked EXCLUDED."""
    size = state[at.BLOCK_SIZE]
    budget = state[at.BUDGET_MAX]
    threshold = state[at.THRESHOLD]
    demand = 0
    for position in range(state[at.RUNNING_COUNT]):
        slot = running[position]
        if table[at.EXCLUDED, slot]:
            continue
        tokens = table[at.TOKENS, slot] - table[at.COMPUTED, slot]
        if 0 < threshold < tokens:
            tokens = threshold
        if tokens > budget:
            tokens = budget
        budget -= tokens
        missing = -(-(table[at.COMPUTED, slot] + tokens) // size) - table[at.HELD, slot]
        if missing > 0:
            demand += missing
        if budget <= 0:
            break
    return demand


@compile_part
def ask_for_victims(t: Tables) -> int:
    """Before a step: ask the policy when the running list needs more than is free."""
    state = t.state
    state[at.PHASE] = at.P_START
    running = state[at.RUNNING_COUNT]
    if state[at.CHOOSES_VICTIMS] and running >= 2:
        prefill = state[at.BUDGET_MAX] // state[at.BLOCK_SIZE] + 1 if state[at.PREFILLING_COUNT] else 0
        free = state[at.FREE]
        if free < running + prefill and sum_block_demand(t.requests, t.running, state) > free:
            return at.ASK_VICTIMS
    return at.GO_ON


@compile_part
def start_step(state: at.Array) -> None:
    """A step begins: nothing is scheduled yet."""
    state[at.INDEX] = 0
    state[at.BUDGET] = state[at.BUDGET_MAX]
    state[at.SCHEDULED_COUNT] = 0
    state[at.PREEMPTED_COUNT] = 0
    state[at.BLOCKED] = 0
    state[at.PHASE] = at.P_RUN


@compile_part
def schedule_running(t: Tables) -> int:
    """Rules 3 to 6: give the running requests their tokens in order, preempting while blocks are missing."""
    table, running, state = t.requests, t.running, t.state
    size = state[at.BLOCK_SIZE]
    state[at.PHASE] = at.P_ADMIT
    while state[at.INDEX] < state[at.RUNNING_COUNT] and state[at.BUDGET] > 0:
        slot = running[state[at.INDEX]]
        computed = table[at.COMPUTED, slot]
        tokens = table[at.TOKENS, slot] - computed
        if 0 < state[at.THRESHOLD] < tokens and state[at.RUNNING_COUNT] + state[at.WAITING_COUNT] > 1:
            tokens = state[at.THRESHOLD]
        tokens = min(tokens, state[at.BUDGET], state[at.MODEL_LEN] - 1 - computed)
        if tokens <= 0:
            state[at.INDEX] += 1
            continue
        need = -(-(computed + tokens) // size) - table[at.HELD, slot]
        if need > state[at.FREE]:
            state[at.RUNNING_COUNT] -= 1
            victim = running[state[at.RUNNING_COUNT]]
            if victim != slot:
                state[at.PHASE] = at.P_RUN  # look at the same request again
            lost = _preempt(t, victim)
            if state[at.HEARS_PREEMPT]:
                state[at.EVENT_SLOT], state[at.EVENT_LOST] = victim, lost
                return at.TELL_PREEMPT
            break
        if need > 0:
            state[at.FREE] -= need
            table[at.HELD, slot] += need
        count = state[at.SCHEDULED_COUNT]
        t.scheduled[0, count] = slot
        t.scheduled[1, count] = tokens
        state[at.SCHEDULED_COUNT] = count + 1
        state[at.BUDGET] -= tokens
        state[at.INDEX] += 1
    return at.GO_ON


@compile_part
def close_life(table: at.Array, state: at.Array, slot: int) -> None:
    """A request is preempted or done: count what it computed for another time."""
    computed, high = table[at.COMPUTED, slot], table[at.HIGH, slot]
    again = min(computed, high) - table[at.START, slot]
    if again > 0:
        state[at.RECOMPUTED] += again
    table[at.HIGH, slot] = max(high, computed)


@compile_part
def _preempt(t: Tables, victim: int) -> int:
    """Rule 6: the victim, off the running list, loses its blocks; return the positions it loses."""
    table, state = t.requests, t.state
    lost: int = table[at.COMPUTED, victim]
    if table[at.PREFILLING, victim]:
        table[at.PREFILLING, victim] = 0
        state[at.PREFILLING_COUNT] -= 1
    state[at.FREE] += table[at.HELD, victim]
    close_life(table, state, victim)
    table[at.HELD, victim] = 0
    table[at.COMPUTED, victim] = 0
    table[at.PREEMPTIONS, victim] += 1
    if table[at.PREEMPTIONS, victim] > state[at.MOST_PREEMPTIONS]:
        state[at.MOST_PREEMPTIONS] = table[at.PREEMPTIONS, victim]
    table[at.PLACE, victim] = at.WAITING
    state[at.PREEMPTION_TOTAL] += 1
    state[at.PREEMPTED_COUNT] += 1
    state[at.TOKENS_LOST] += lost
    state[at.BLOCKS_FREED] += -(-lost // state[at.BLOCK_SIZE])
    if table[at.NAMED, victim] == state[at.STEPS] + 1:
        state[at.PREEMPTED_BY_POLICY] += 1
    prepend_waiting(t, victim)
    forget_answers(state)
    return lost
