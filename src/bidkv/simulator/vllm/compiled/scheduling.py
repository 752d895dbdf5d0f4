"""The running list of the compiled kernel: what it needs, what it gets, which requests are preempted."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.arrivals import forget_answers
from bidkv.simulator.vllm.compiled.blocks import allocate, release_blocks
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Array, BlockTables, Tables
from bidkv.simulator.vllm.compiled.queue import prepend_waiting


@compile_part
def sum_block_demand(table: Array, running: Array, state: Array) -> int:
    """Blocks the running list takes in the coming step, without those marked EXCLUDED."""
    size = state[at.BLOCK_SIZE]
    budget = state[at.BUDGET_MAX]
    threshold = state[at.THRESHOLD]
    demand = 0
    for position in range(state[at.RUNNING_COUNT]):
        slot = running[position]
        if table[at.EXCLUDED, slot]:
            continue
        computed = table[at.COMPUTED, slot]
        tokens = table[at.TOKENS, slot] + table[at.COMING, slot] - computed
        if 0 < threshold < tokens:
            tokens = threshold
        tokens = min(tokens, budget, table[at.LIMIT, slot] - 1 - computed)
        if tokens <= 0:
            continue
        budget -= tokens
        missing = -(-(computed + tokens) // size) - table[at.HELD, slot]
        if missing > 0:
            demand += missing
        if budget <= 0:
            break
    return demand


@compile_part
def ask_for_victims(t: Tables) -> int:
    """Before a step: ask the policy if the running list needs more than is free, or for sessions to drop."""
    state = t.state
    state[at.PHASE] = at.P_START
    running = state[at.RUNNING_COUNT]
    if state[at.DROPS_IDLE]:
        unretained = state[at.FREE] - state[at.RETAINED_IN_BOOKS]
        if state[at.DROP_ANSWERED] == 0 or unretained < running:
            return at.ASK_VICTIMS
    if state[at.CHOOSES_VICTIMS] and running >= 2:
        prefill = state[at.BUDGET_MAX] // state[at.BLOCK_SIZE] + 1 if state[at.PREFILLING_COUNT] else 0
        free = state[at.FREE]
        if free < running + prefill and sum_block_demand(t.requests, t.running, state) > free:
            return at.ASK_VICTIMS
    return at.GO_ON


@compile_part
def start_step(state: Array) -> None:
    """A step begins: nothing is scheduled yet."""
    state[at.INDEX] = 0
    state[at.BUDGET] = state[at.BUDGET_MAX]
    state[at.SCHEDULED_COUNT] = 0
    state[at.PREEMPTED_COUNT] = 0
    state[at.BLOCKED] = at.OPEN
    state[at.PHASE] = at.P_RUN


@compile_part
def schedule_running(t: Tables) -> int:
    """Rules 3 to 6: give the running requests their tokens in order, preempting while blocks are missing."""
    table, running, state = t.requests, t.running, t.state
    size = state[at.BLOCK_SIZE]
    caching = state[at.CACHING]
    state[at.PHASE] = at.P_ADMIT
    while state[at.INDEX] < state[at.RUNNING_COUNT] and state[at.BUDGET] > 0:
        slot = running[state[at.INDEX]]
        computed = table[at.COMPUTED, slot]
        tokens = state[at.RETRY_TOKENS] or table[at.TOKENS, slot] + table[at.COMING, slot] - computed
        state[at.RETRY_TOKENS] = 0
        if 0 < state[at.THRESHOLD] < tokens and state[at.RUNNING_COUNT] + state[at.WAITING_COUNT] > 1:
            tokens = state[at.THRESHOLD]
        tokens = min(tokens, state[at.BUDGET], table[at.LIMIT, slot] - 1 - computed)
        if tokens <= 0:
            state[at.INDEX] += 1
            continue
        need = -(-(computed + tokens) // size) - table[at.HELD, slot]
        if need > state[at.FREE]:
            victim = _take_victim(t)
            if victim != slot:
                state[at.PHASE] = at.P_RUN  # look at the same request again
                state[at.RETRY_TOKENS] = tokens
            lost = _preempt(t, victim)
            if state[at.HEARS_PREEMPT]:
                state[at.EVENT_SLOT], state[at.EVENT_LOST] = victim, lost
                return at.TELL_PREEMPT
            break
        if caching or need > 0:
            allocate(t.requests, t.blocks, t.state, slot, need, computed + tokens)
        count = state[at.SCHEDULED_COUNT]
        t.scheduled[0, count] = slot
        t.scheduled[1, count] = tokens
        state[at.SCHEDULED_COUNT] = count + 1
        state[at.BUDGET] -= tokens
        state[at.INDEX] += 1
    return at.GO_ON


@compile_part
def _take_victim(t: Tables) -> int:
    """Rule 4: take the request that the engine preempts off the running list, and out of the step."""
    table, running, state = t.requests, t.running, t.state
    last = state[at.RUNNING_COUNT] - 1
    state[at.RUNNING_COUNT] = last
    victim: int = running[last]
    # Victims that the policy named stand at the tail, first choice last, under priority scheduling too.
    if not state[at.BY_PRIORITY] or table[at.NAMED, victim] == state[at.STEPS] + 1:
        return victim
    position = 0
    victim = running[0]
    for other_position in range(1, last + 1):
        other = running[other_position]
        if _is_less_important(table, t.times, other, victim):
            position, victim = other_position, other
    for index in range(position, last):
        running[index] = running[index + 1]
    if position < state[at.INDEX]:
        state[at.INDEX] -= 1
        _unschedule(t.scheduled, state, victim)
    return victim


@compile_part
def _is_less_important(table: Array, times: Array, slot: int, other: int) -> bool:
    if table[at.PRIORITY, slot] != table[at.PRIORITY, other]:
        return bool(table[at.PRIORITY, slot] > table[at.PRIORITY, other])
    return bool(times[at.ARRIVAL_S, slot] > times[at.ARRIVAL_S, other])


@compile_part
def _unschedule(scheduled: Array, state: Array, victim: int) -> None:
    """Rule 4: a victim already scheduled in this step is taken back from it; its tokens return."""
    count = state[at.SCHEDULED_COUNT]
    for position in range(count):
        if scheduled[0, position] == victim:
            state[at.BUDGET] += scheduled[1, position]
            for index in range(position, count - 1):
                scheduled[0, index] = scheduled[0, index + 1]
                scheduled[1, index] = scheduled[1, index + 1]
            state[at.SCHEDULED_COUNT] = count - 1
            return


@compile_part
def close_life(table: Array, state: Array, slot: int) -> None:
    """`TokenBooks.close_life`: a request is preempted or leaves; count what it computed once more."""
    computed, high, start = table[at.COMPUTED, slot], table[at.HIGH, slot], table[at.START, slot]
    again = min(computed, high) - start
    if again > 0:
        state[at.RECOMPUTED] += again
    lost = min(computed, table[at.PAST, slot]) - max(start, high)
    if lost > 0:
        state[at.LOST_PREFIX_TOKENS] += lost
    table[at.HIGH, slot] = max(high, computed)


@compile_part
def release(table: Array, b: BlockTables, state: Array, slot: int, session_goes_on: bool) -> None:
    """The request in `slot` gives up the blocks it holds."""
    if state[at.CACHING]:
        release_blocks(table, b, state, slot, session_goes_on)
    else:
        state[at.FREE] += table[at.HELD, slot]
        table[at.HELD, slot] = 0


@compile_part
def _preempt(t: Tables, victim: int) -> int:
    """Rule 6: the victim, off the running list, loses its blocks; return the positions it loses."""
    table, state = t.requests, t.state
    lost: int = table[at.COMPUTED, victim]
    if table[at.PREFILLING, victim]:
        table[at.PREFILLING, victim] = 0
        state[at.PREFILLING_COUNT] -= 1
    release(t.requests, t.blocks, t.state, victim, False)
    close_life(table, state, victim)
    table[at.COMPUTED, victim] = 0
    table[at.COMING, victim] = 0  # rule 20: what is in flight still arrives, but belongs to no life any more
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
    prepend_waiting(t.requests, t.times, t.heap, t.state, victim)
    forget_answers(state)
    return lost
