"""Time in the compiled kernel: how long a step takes, and the record of the engine's state over time."""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Tables

_FIRST_GAP_BITS = 1022 * 64 + at.FIRST_GAP_BIN


@compile_part
def price_scheduled(t: Tables) -> float:
    """Return the seconds that the scheduled batch takes; count its tokens."""
    table, scheduled, state, lines = t.requests, t.scheduled, t.state, t.decode_lines
    prefill_tokens, prefills, decodes, context = 0, 0, 0, 0
    attention = 0.0
    count = state[at.SCHEDULED_COUNT]
    for position in range(count):
        slot, tokens = scheduled[0, position], scheduled[1, position]
        computed = table[at.COMPUTED, slot]
        context += computed + tokens
        if tokens == 1 and table[at.TOKENS, slot] + table[at.COMING, slot] - computed == 1:
            decodes += 1
        else:
            prefills += 1
            prefill_tokens += tokens
            attention += tokens * (computed + tokens * 0.5)
    state[at.SCHEDULED_TOKENS] += prefill_tokens + decodes
    if count == 0:
        empty_s: float = t.clock[at.EMPTY_STEP_S]
        return empty_s
    if prefill_tokens == 0:
        host_s: float = lines[decodes, 0] + lines[decodes, 1] * context
        gpu_s: float = lines[decodes, 2] + lines[decodes, 3] * context
        return gpu_s if gpu_s > host_s else host_s
    prefill_s: float = _price_prefill_step(t, prefill_tokens + decodes, attention, decodes, context, prefills)
    return prefill_s


@compile_part
def _price_prefill_step(
    t: Tables, tokens: int, attention: float, decodes: int, context: int, prefills: int
) -> float:
    """`StepTimeProfile.step_s` for a step with prefill; `tokens` counts decodes too."""
    regime, launched = 2, tokens
    if tokens <= t.state[at.GRAPH_LIMIT]:
        regime, launched = 1, t.padded[tokens]
    slowest = 0.0
    for part in range(2):
        line = t.coefficients[regime, part]
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


@compile_part
def count_gaps(t: Tables, gap_s: float, count: int) -> None:
    """`TokenGaps.add`: `count` tokens came `gap_s` seconds after the one before them."""
    if count:
        t.clock[at.GAP_S] = max(gap_s, 1e-9)
        # A float's exponent and the first six bits of its fraction, as `find_gap_bin` computes them.
        t.gap_counts[(t.clock_bits[at.GAP_S] >> 46) - _FIRST_GAP_BITS] += count
        if gap_s > t.clock[at.LONGEST_GAP_S]:
            t.clock[at.LONGEST_GAP_S] = gap_s


@compile_part
def offer_timeline(t: Tables, used: int, running: int) -> None:
    """`TimelineRecorder.offer`."""
    state, rows, seconds = t.state, t.timeline, t.timeline_s
    if state[at.STEPS] < state[at.TIMELINE_DUE]:
        return
    n = state[at.TIMELINE_LENGTH]
    seconds[n] = t.clock[at.NOW_S]
    rows[0, n], rows[1, n] = used, running
    rows[2, n], rows[3, n] = state[at.WAITING_COUNT], state[at.PREEMPTION_TOTAL]
    rows[4, n] = state[at.IDLE_BLOCKS]
    n += 1
    if n >= seconds.shape[0]:
        kept = 0
        for source in range(0, n, 2):
            seconds[kept] = seconds[source]
            for row in range(at.TIMELINE_ROWS):
                rows[row, kept] = rows[row, source]
            kept += 1
        n = kept
        state[at.TIMELINE_STRIDE] *= 2
    state[at.TIMELINE_LENGTH] = n
    state[at.TIMELINE_DUE] = state[at.STEPS] + state[at.TIMELINE_STRIDE]
