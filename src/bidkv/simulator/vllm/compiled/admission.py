"""Admissions of the compiled kernel."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.arrivals import forget_answers
from bidkv.simulator.vllm.compiled.blocks import allocate, look_up, take_hits
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables
from bidkv.simulator.vllm.compiled.queue import remove_waiting


@compile_part
def admit(t: Tables) -> int:
    """Rules 7 to 11 and 14: let waiting requests enter while budget, seats and memory last."""
    table, state = t.requests, t.state
    size = state[at.BLOCK_SIZE]
    state[at.PHASE] = at.P_PASS_TIME
    if state[at.PREEMPTED_COUNT]:
        return at.GO_ON
    while True:
        if state[at.WAITING_COUNT] == 0 or state[at.RUNNING_COUNT] >= state[at.MAX_SEQS]:
            state[at.BLOCKED] = at.SHUT
            break
        if state[at.BUDGET] <= 0:
            break
        slot = state[at.HEAD]
        if state[at.CHOOSES_NEXT]:
            if state[at.GATE_SHUT]:
                state[at.BLOCKED] = at.SHUT
                break
            if state[at.NEXT_SLOT] < 0:
                state[at.PHASE] = at.P_ADMIT
                return at.ASK_NEXT
            slot = state[at.NEXT_SLOT]
        hits, free_hits = 0, 0
        if state[at.CACHING]:
            look_up(t.requests, t.blocks, t.state, slot)
            hits, free_hits = state[at.LOOKED_HITS], state[at.LOOKED_FREE]
        tokens = table[at.TOKENS, slot] - hits * size
        if 0 < state[at.THRESHOLD] < tokens and state[at.RUNNING_COUNT] + state[at.WAITING_COUNT] > 1:
            tokens = state[at.THRESHOLD]
        if tokens > state[at.BUDGET]:
            if state[at.CHUNKED] == 0:
                break
            tokens = state[at.BUDGET]
        blocks = -(-tokens // size)  # the hits are whole blocks
        needed = blocks
        if state[at.FULL_ISL]:
            needed = max(needed, -(-min(table[at.TOKENS, slot], state[at.MODEL_LEN]) // size) - hits)
        needed += free_hits
        kept_free = 0
        # A request that does not fit at all is kept out whatever the reserve is, so the policy is not asked.
        if state[at.RUNNING_COUNT] > 0 and needed <= state[at.FREE]:
            kept_free = state[at.WATERMARK]
            if state[at.KEEPS_RESERVE]:
                if state[at.RESERVE] < 0:
                    state[at.PHASE] = at.P_ADMIT
                    return at.ASK_RESERVE
                kept_free = max(kept_free, state[at.RESERVE])
        if needed + kept_free > state[at.FREE]:
            state[at.BLOCKED] = at.SHORT
            break
        _enter(t, slot, tokens, blocks)
        if state[at.HEARS_ADMIT]:
            state[at.EVENT_SLOT] = slot
            state[at.PHASE] = at.P_ADMIT
            return at.TELL_ADMIT
    return at.GO_ON


@compile_part
def _enter(t: Tables, slot: int, tokens: int, blocks: int) -> None:
    """The waiting request in `slot` runs now, with its cached blocks and those of its first chunk."""
    table, state = t.requests, t.state
    remove_waiting(t.requests, t.times, t.heap, t.state, slot)
    cached = 0
    if state[at.CACHING]:
        cached = state[at.LOOKED_HITS] * state[at.BLOCK_SIZE]
        take_hits(t.requests, t.blocks, t.state, slot)
    table[at.COMPUTED, slot] = table[at.START, slot] = cached
    if table[at.CACHED, slot] < 0:
        table[at.CACHED, slot] = cached
        state[at.PROMPT_TOKENS_SEEN] += table[at.PROMPT, slot]
        state[at.PREFIX_HIT_TOKENS] += cached
    allocate(t.requests, t.blocks, t.state, slot, blocks, cached + tokens)
    table[at.PREFILLING, slot] = 1
    table[at.PLACE, slot] = at.RUNNING
    state[at.PREFILLING_COUNT] += 1
    t.running[state[at.RUNNING_COUNT]] = slot
    state[at.RUNNING_COUNT] += 1
    count = state[at.SCHEDULED_COUNT]
    t.scheduled[0, count] = slot
    t.scheduled[1, count] = tokens
    state[at.SCHEDULED_COUNT] = count + 1
    state[at.BUDGET] -= tokens
    state[at.ADMISSIONS] += 1
    forget_answers(state)
