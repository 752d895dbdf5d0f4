"""Where the compiled kernel keeps what: rows of its arrays, phases of a step, reasons to return to Python."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any

# Rows of the integer table, one column per live request ("slot").
PROMPT, TOKENS, TARGET, COMPUTED, HELD, PREEMPTIONS, HIGH, START = range(8)
# NAMED: the step, counted from 1, for which the policy last named it a victim.
PREFILLING, UID, NEXT, PREVIOUS, PLACE, EXCLUDED, NAMED = range(8, 15)
INT_ROWS = 15

# Values of PLACE.
NOWHERE, WAITING, RUNNING = range(3)

# Rows of the float table.
ARRIVAL_S, FIRST_TOKEN_S = range(2)
FLOAT_ROWS = 2

# Integer scalars: what the engine is ...
BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS, BUDGET_MAX, THRESHOLD, MODEL_LEN, WATERMARK, CHUNKED, FULL_ISL = range(9)
# ... its state ...
FREE, RUNNING_COUNT, WAITING_COUNT, HEAD, TAIL, PREFILLING_COUNT, FREE_SLOTS = range(9, 16)
# ... the step in progress ...
PHASE, INDEX, BUDGET, SCHEDULED_COUNT, PREEMPTED_COUNT, FINISHED_COUNT, BLOCKED, USED = range(16, 24)
# ... input and output ...
INPUT_POSITION, INPUT_LENGTH, INPUT_LAST, OUTPUT_LENGTH = range(24, 28)
# ... counters ...
STEPS, SCHEDULED_TOKENS, RECOMPUTED, PREEMPTION_TOTAL, ARRIVALS, ADMISSIONS, COMPLETIONS = range(28, 35)
# ... what Python wants to be asked and told ...
CHOOSES_VICTIMS, CHOOSES_NEXT, KEEPS_RESERVE = range(35, 38)
HEARS_ARRIVAL, HEARS_ADMIT, HEARS_PREEMPT, HEARS_FINISH = range(38, 42)
# ... its answers (-1: not asked since the last event) and what an event is about ...
NEXT_SLOT, GATE_SHUT, RESERVE, EVENT_SLOT, EVENT_LOST, RECYCLE = range(42, 48)
# ... the timeline, the profile and leaping.
TIMELINE_LENGTH, TIMELINE_STRIDE, TIMELINE_DUE, GRAPH_LIMIT, LEAP = range(48, 53)
# ... and what preemptions cost.
TOKENS_LOST, BLOCKS_FREED, PREEMPTED_BY_POLICY, MOST_PREEMPTIONS = range(53, 57)
INT_SCALARS = 57

# Float scalars. UNTIL_S: steps that start before it need no further input.
NOW_S, USED_BLOCK_SECONDS, EMPTY_STEP_S, STEP_S, LAST_FINISH_S, UNTIL_S = range(6)
FLOAT_SCALARS = 6

# Phases of a step.
P_ARRIVE, P_BEFORE, P_START, P_RUN, P_ADMIT, P_PASS_TIME, P_RETIRE, P_LEAP = range(8)

# Reasons to return to Python.
DONE, NEED_INPUT, NEED_SLOTS, OUTPUT_FULL = range(4)
ASK_VICTIMS, ASK_NEXT, ASK_RESERVE = range(4, 7)
TELL_ARRIVAL, TELL_ADMIT, TELL_PREEMPT, TELL_FINISH = range(7, 11)

# Rows of the output: per finished request, in the order of finishing.
OUT_UID, OUT_TOKENS, OUT_PREEMPTIONS = range(3)
OUT_FIRST_S, OUT_FINISH_S = range(2)

GO_ON = -1
"""What a part of the kernel returns when Python is not needed."""


class Tables(NamedTuple):
    """The arrays the kernel works on.

    Attributes:
        requests: integer rows, a column for each live request ("slot").
        times: float rows, columns as in `requests`.
        running: slots of the running requests in the engine's order, RUNNING_COUNT of them.
        scheduled: row 0 the slots scheduled in this step, row 1 their tokens.
        free_slots: a stack of unused slots.
        state: the integer scalars.
        clock: the float scalars.
        input_s: arrival times in seconds of the requests to come.
        inputs: rows of those requests: uid, prompt tokens, tokens at its end.
        outputs: rows of finished requests.
        outputs_s: their times in seconds.
        timeline: rows of the timeline.
        timeline_s: its times in seconds.
        coefficients: the step-time profile's lines.
        padded: tokens of a captured graph that a step of so many tokens is padded to.
        decode_lines: cost lines of steps that only decode, by their number of requests.
        crossing: scratch of a leap: running requests by position within their last block.
    """

    requests: Array
    times: Array
    running: Array
    scheduled: Array
    free_slots: Array
    state: Array
    clock: Array
    input_s: Array
    inputs: Array
    outputs: Array
    outputs_s: Array
    timeline: Array
    timeline_s: Array
    coefficients: Array
    padded: Array
    decode_lines: Array
    crossing: Array
