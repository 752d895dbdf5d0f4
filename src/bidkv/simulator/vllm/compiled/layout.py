"""Where the compiled kernel keeps what: rows of its arrays, phases of a step, reasons to return to Python."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any

# Rows of the integer table, one column per live request ("slot"). LIMIT: tokens at which the engine ends it.
PROMPT, TOKENS, TARGET, LIMIT = range(4)
# START: where its current life began to compute. COMING: tokens of scheduled steps whose output has not come.
# LABELED: how many of its blocks can be found in the prefix cache. These rows start at zero.
COMPUTED, HELD, PREEMPTIONS, HIGH, START, PREFILLING, COMING, LABELED = range(4, 12)
# NAMED: the step, counted from 1, for which the policy last named it a victim.
UID, NEXT, PREVIOUS, PLACE, EXCLUDED, NAMED = range(12, 18)
# RANK: its place among those with equal priority and arrival. SEAT: its row of `BlockTables.held`.
PRIORITY, RANK, SEAT = range(18, 21)
# Where its segments lie in `BlockTables.segments`, and the content node of everything behind them.
FIRST_SEGMENT, SEGMENT_COUNT, LAST_NODE = range(21, 24)
# What Q_ALL_PRIVATE_BLOCKS answers.
PRIVATE = 24
# CACHED: tokens found in the cache at its first admission, -1 before that. PAST: leading prompt tokens, in
# whole blocks, that an earlier turn of its session computed. SHARED: its leading blocks that other sessions
# may use. GOES_ON: whether another turn of its session follows.
CACHED, PAST, SHARED, GOES_ON = range(25, 29)
INT_ROWS = 29

PROSPECT = 0
"""The slot of a prompt that is only asked about: whether it is cached."""

HEAP_POSITION = NEXT
"""Under priority scheduling the waiting requests are a heap instead of a list."""

# Values of PLACE.
NOWHERE, WAITING, RUNNING = range(3)

# Rows of the float table.
# (-1.0: no token has come yet)
ARRIVAL_S, FIRST_TOKEN_S, LAST_TOKEN_S = range(3)
FLOAT_ROWS = 3

# Rows of the input.
IN_UID, IN_PROMPT, IN_TARGET, IN_LIMIT, IN_PRIORITY, IN_RANK = range(6)
IN_FIRST_SEGMENT, IN_SEGMENT_COUNT, IN_LAST_NODE, IN_PAST, IN_SHARED, IN_GOES_ON = range(6, 12)
IN_ROWS = 12

# Integer scalars: what the engine is ...
BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS, BUDGET_MAX, THRESHOLD, MODEL_LEN, WATERMARK, CHUNKED, FULL_ISL = range(9)
BY_PRIORITY, ASYNCHRONOUS, CACHING = range(9, 12)
# ... its state ...
FREE, RUNNING_COUNT, WAITING_COUNT, HEAD, TAIL, PREFILLING_COUNT, FREE_SLOTS, FREE_SEATS = range(12, 20)
# ... the step in progress ...
PHASE, INDEX, BUDGET, SCHEDULED_COUNT, PREEMPTED_COUNT, FINISHED_COUNT, BLOCKED, USED = range(20, 28)
# (RETRY_TOKENS: what a request asked for before one was preempted for its sake; 0: it has not asked yet)
# ... the step on the device (FLIGHT_COUNT -1: none): whose tokens come, and whether it computes nothing ...
FLIGHT_ROW, FLIGHT_COUNT, FLIGHT_EMPTY = range(28, 31)
# ... input and output ...
INPUT_POSITION, INPUT_LENGTH, INPUT_LAST, OUTPUT_LENGTH = range(31, 35)
# ... counters ...
STEPS, SCHEDULED_TOKENS, RECOMPUTED, PREEMPTION_TOTAL, ARRIVALS, ADMISSIONS, COMPLETIONS = range(35, 42)
# ... what Python wants to be asked and told ...
CHOOSES_VICTIMS, CHOOSES_NEXT, KEEPS_RESERVE = range(42, 45)
HEARS_ARRIVAL, HEARS_ADMIT, HEARS_PREEMPT, HEARS_FINISH = range(45, 49)
# ... its answers (-1: not asked since the last event) and what an event is about ...
NEXT_SLOT, GATE_SHUT, RESERVE, EVENT_SLOT, EVENT_LOST, RECYCLE = range(49, 55)
# ... the timeline, the profile, leaping, and the step at which progress is checked ...
TIMELINE_LENGTH, TIMELINE_STRIDE, TIMELINE_DUE, GRAPH_LIMIT, LEAP, CHECK_AT = range(55, 61)
# ... what preemptions cost ...
TOKENS_LOST, BLOCKS_FREED, PREEMPTED_BY_POLICY, MOST_PREEMPTIONS = range(61, 65)
# ... and the last look into the prefix cache: its request (-1: it no longer holds), what it found, how many
# of these blocks no request holds, the key it missed, and the mark of its blocks in `BlockTables.looked`.
LOOKED_SLOT, LOOKED_TOKENS, LOOKED_HITS, LOOKED_FREE, LOOKED_MISS, LOOKED_MARK = range(65, 71)
RETRY_TOKENS = 71
# What Python asks the kernel between two steps, and about which slot.
QUERY, QUERY_SLOT = range(72, 74)
# Whether the requests to come depend on those that leave: then Python hears of every step that completed any.
CLOSED_LOOP, ABORTS = range(74, 76)
# Free blocks that hold the past of a session that goes on, now and while the last step ran.
RETAINED, IDLE_BLOCKS = range(76, 78)
PROMPT_TOKENS_SEEN, PREFIX_HIT_TOKENS, LOST_PREFIX_TOKENS = range(78, 81)
# Whether the policy drops idle sessions, whether it was asked since the last event, how many blocks the books
# of sessions count as retained, and the key that a query is about.
DROPS_IDLE, DROP_ANSWERED, RETAINED_IN_BOOKS, QUERY_KEY = range(81, 85)
INT_SCALARS = 85

# Values of BLOCKED: why no request can enter before the next event; SHORT (of memory) depends on the cache.
OPEN, SHUT, SHORT = range(3)

# Float scalars. UNTIL_S: steps that start before it need no further input. FLIGHT_S: how long the step on the
# device takes. GAP_S: scratch.
NOW_S, USED_BLOCK_SECONDS, EMPTY_STEP_S, STEP_S, LAST_FINISH_S, UNTIL_S, FLIGHT_S, LONGEST_GAP_S = range(8)
GAP_S = 8
FLOAT_SCALARS = 9

# Phases of a step.
P_ARRIVE, P_BEFORE, P_START, P_RUN, P_ADMIT, P_PASS_TIME, P_RETIRE, P_LEAP = range(8)

# Reasons to return to Python.
DONE, NEED_INPUT, NEED_SLOTS, OUTPUT_FULL, NEED_CHECK, STEP_COMPLETED = range(6)
ASK_VICTIMS, ASK_NEXT, ASK_RESERVE = range(6, 9)
TELL_ARRIVAL, TELL_ADMIT, TELL_PREEMPT, TELL_FINISH = range(9, 13)
REASONS = 13

# What Python may ask between two steps.
Q_BLOCK_DEMAND, Q_PRIVATE_BLOCKS, Q_ALL_PRIVATE_BLOCKS, Q_CACHED_TOKENS, Q_ABORT = range(5)
Q_IS_CACHED, Q_REUSE_FIRST = range(5, 7)

# Rows of the output: per finished request, in the order of finishing.
OUT_UID, OUT_TOKENS, OUT_PREEMPTIONS, OUT_CACHED = range(4)
OUT_ROWS = 4
OUT_FIRST_S, OUT_FINISH_S = range(2)

GO_ON = -1
"""What a part of the kernel returns when Python is not needed."""

TIMELINE_ROWS = 5
FIRST_GAP_BIN = -2048
GAP_BINS = 4096
"""From a nanosecond, the shortest gap, to 2**31 seconds."""

INDEX_BITS = 27
"""A block's key is its content node, shifted by this, plus its index: 10**8 blocks fit (`EngineConfig`)."""


class BlockTables(NamedTuple):
    """The arrays of the prefix cache; only its length-1 stand-ins without one.

    Attributes:
        references: by block: how many requests hold it.
        queue_next: by block: the free block reused after it; the last entry is the queue's two ends.
        queue_previous: by block: the free block reused before it.
        keys: by block: its content's key, -1 while it cannot be found.
        retained: by block: 1 if it holds the past of a session that goes on.
        bucket_next: by block: the block labeled after it in the same bucket, -1 for none.
        buckets: the first labeled block of each bucket, -1 for none; the number of buckets is a power of two.
        looked: by block: the LOOKED_MARK of the last look that found it.
        hits: the blocks found by the last look.
        held: by seat: the blocks of a running request in order.
        free_seats: a stack of unused seats.
        segments: of all live requests: row 0 ends in tokens from the prompt's start, row 1 content nodes.
    """

    references: Array
    queue_next: Array
    queue_previous: Array
    keys: Array
    retained: Array
    bucket_next: Array
    buckets: Array
    looked: Array
    hits: Array
    held: Array
    free_seats: Array
    segments: Array


class Tables(NamedTuple):
    """The arrays the kernel works on.

    Attributes:
        requests: integer rows, a column for each live request ("slot").
        times: float rows, columns as in `requests`.
        running: slots of the running requests in the engine's order, RUNNING_COUNT of them.
        scheduled: row 0 the slots scheduled in this step, row 1 their tokens.
        sampled: two rows of slots: those whose next token the step on the device computes, and the step's
            before it.
        free_slots: a stack of unused slots.
        heap: slots of the waiting requests under priority scheduling.
        state: the integer scalars.
        clock: the float scalars.
        clock_bits: the same memory as integers.
        input_s: arrival times in seconds of the requests to come.
        inputs: rows of those requests.
        outputs: rows of finished requests.
        outputs_s: their times in seconds.
        timeline: rows of the timeline.
        timeline_s: its times in seconds.
        gap_counts: gaps between two tokens of an answer, by bin (`find_gap_bin`) from FIRST_GAP_BIN on.
        coefficients: the step-time profile's lines.
        padded: tokens of a captured graph that a step of so many tokens is padded to.
        decode_lines: cost lines of steps that only decode, by their number of requests.
        crossing: scratch of a leap: running requests by position within their last block.
        by_crossing: scratch of a leap: the running requests sorted by that position.
        blocks: the prefix cache.
    """

    requests: Array
    times: Array
    running: Array
    scheduled: Array
    sampled: Array
    free_slots: Array
    heap: Array
    state: Array
    clock: Array
    clock_bits: Array
    input_s: Array
    inputs: Array
    outputs: Array
    outputs_s: Array
    timeline: Array
    timeline_s: Array
    gap_counts: Array
    coefficients: Array
    padded: Array
    decode_lines: Array
    crossing: Array
    by_crossing: Array
    blocks: BlockTables
