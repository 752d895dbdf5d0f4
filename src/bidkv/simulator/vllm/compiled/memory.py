"""The compiled kernel's arrays, and the kernel itself as Python drives it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bidkv.profiles import StepTimeProfile
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.kernel import answer_queries, run_kernel
from bidkv.simulator.vllm.config import EngineConfig

CHUNK = 4096
"""Requests handed to the kernel at once, and results kept until Python reads them."""

_FIRST_SLOTS = 256
_FIRST_SEGMENTS = 1 << 13


class Kernel:
    """The compiled kernel with its arrays; larger ones can replace them between two stops.

    Attributes:
        tables: the arrays.
        words: the integer scalars, and `seconds` the float ones: a memoryview reads and writes single numbers
            several times faster than an array does.
        rows: the rows of the table of live requests, likewise; the list stays the same when arrays change.
        input_row_bytes: the rows of the input, a request's one behind the other, to write one as a whole.
        input_seconds: the arrival times that belong to them.
        segment_rows: the rows of the segments, as in `words`.
        stops: runs the kernel on to the next reason to return to Python; another one with other arrays.
    """

    def __init__(
        self, config: EngineConfig, profile: StepTimeProfile, timeline_points: int, *, leap: bool
    ) -> None:
        self.rows: list[memoryview[int]] = []
        self._bind(_make_tables(config, profile, timeline_points, leap=leap))
        self.words: memoryview[int] = memoryview(self.tables.state)
        self.seconds: memoryview[float] = memoryview(self.tables.clock)

    def _bind(self, tables: at.Tables) -> None:
        self.tables = tables
        self.rows[:] = [memoryview(row) for row in tables.requests]
        self.input_row_bytes: memoryview[int] = memoryview(tables.inputs.T).cast("B")
        self.input_seconds: memoryview[float] = memoryview(tables.input_s)
        self.segment_rows: list[memoryview[int]] = [
            memoryview(row).cast("B").cast("q") for row in tables.blocks.segments
        ]
        self.stops = run_kernel(tables)
        self._answers = answer_queries(tables)

    def replace(self, **arrays: Any) -> None:
        """Put other arrays into the place of those of these names."""
        self._bind(self.tables._replace(**arrays))

    def ask(self, query: int, slot: int = 0) -> int:
        """Ask the kernel something between two steps."""
        self.words[at.QUERY], self.words[at.QUERY_SLOT] = query, slot
        return next(self._answers)

    def add_slots(self) -> None:
        """Double the slots; every one of the old is in use."""
        t = self.tables
        slots = t.requests.shape[1]
        free_slots = np.zeros(2 * slots, np.int64)
        free_slots[:slots] = np.arange(slots, 2 * slots)
        self.words[at.FREE_SLOTS] = slots
        self.replace(
            requests=np.concatenate((t.requests, np.zeros_like(t.requests)), axis=1),
            times=np.concatenate((t.times, np.zeros_like(t.times)), axis=1),
            heap=np.concatenate((t.heap, np.zeros_like(t.heap))),
            free_slots=free_slots,
        )

    def live_slots(self) -> Any:
        """The slots of live requests, as an array."""
        t = self.tables
        used = np.ones(t.requests.shape[1], np.bool_)
        used[at.PROSPECT] = False
        used[t.free_slots[: self.words[at.FREE_SLOTS]]] = False
        if self.words[at.RECYCLE] >= 0:
            used[self.words[at.RECYCLE]] = False
        return np.flatnonzero(used)


def _make_tables(
    config: EngineConfig, profile: StepTimeProfile, timeline_points: int, *, leap: bool
) -> at.Tables:
    seqs = config.max_num_seqs
    clock = np.zeros(at.FLOAT_SCALARS)
    clock[at.EMPTY_STEP_S] = profile.empty_step_s
    clock[at.UNTIL_S] = -math.inf
    free_slots = np.zeros(_FIRST_SLOTS, np.int64)
    free_slots[: _FIRST_SLOTS - 1] = np.arange(1, _FIRST_SLOTS)  # all but PROSPECT
    return at.Tables(
        requests=np.zeros((at.INT_ROWS, _FIRST_SLOTS), np.int64),
        times=np.zeros((at.FLOAT_ROWS, _FIRST_SLOTS)),
        running=np.zeros(seqs, np.int64),
        scheduled=np.zeros((2, seqs + 1), np.int64),
        sampled=np.zeros((2, seqs + 1), np.int64),
        free_slots=free_slots,
        heap=np.zeros(_FIRST_SLOTS, np.int64),
        state=_make_state(config, profile, leap=leap),
        clock=clock,
        clock_bits=clock.view(np.int64),
        input_s=np.zeros(CHUNK),
        inputs=make_inputs(CHUNK),
        outputs=np.zeros((at.OUT_ROWS, CHUNK), np.int64),
        outputs_s=np.zeros((2, CHUNK)),
        timeline=np.zeros((at.TIMELINE_ROWS, timeline_points), np.int64),
        timeline_s=np.zeros(timeline_points),
        gap_counts=np.zeros(at.GAP_BINS, np.int64),
        coefficients=np.array(profile.coefficients()).reshape(3, 2, -1),
        padded=np.array(profile.padded, np.int64),
        decode_lines=np.array(profile.decode_lines(seqs)),
        crossing=np.zeros(config.block_size, np.int64),
        by_crossing=np.zeros((2, max(config.block_size, seqs)), np.int64),
        blocks=_make_blocks(config),
    )


def make_inputs(count: int) -> Any:
    """Return an empty input for `count` requests; the rows of one request lie side by side in memory."""
    return np.zeros((count, at.IN_ROWS), np.int64).T


def _make_blocks(config: EngineConfig) -> at.BlockTables:
    count = config.usable_blocks if config.enable_prefix_caching else 1
    seats = config.max_num_seqs if config.enable_prefix_caching else 1
    longest = -(-config.model_len // config.block_size) + 1 if config.enable_prefix_caching else 1
    queue = np.arange(count + 1, dtype=np.int32)
    return at.BlockTables(
        references=np.zeros(count, np.int32),
        queue_next=np.roll(queue, -1),
        queue_previous=np.roll(queue, 1),
        keys=np.full(count, -1, np.int64),
        retained=np.zeros(count, np.int32),
        bucket_next=np.full(count, -1, np.int32),
        buckets=np.full(2 << count.bit_length(), -1, np.int32),
        looked=np.zeros(count, np.int64),
        hits=np.zeros(longest, np.int32),
        held=np.zeros((seats, longest), np.int32),
        free_seats=np.arange(seats),
        segments=np.zeros((2, _FIRST_SEGMENTS), np.int64),
    )


def _make_state(config: EngineConfig, profile: StepTimeProfile, *, leap: bool) -> Any:
    state = np.zeros(at.INT_SCALARS, np.int64)
    state[at.BLOCK_SIZE] = config.block_size
    state[at.NUM_BLOCKS] = state[at.FREE] = config.usable_blocks
    state[at.MAX_SEQS] = state[at.FREE_SEATS] = config.max_num_seqs
    state[at.BUDGET_MAX] = config.max_num_batched_tokens
    state[at.THRESHOLD] = config.long_prefill_token_threshold
    state[at.MODEL_LEN] = config.model_len
    state[at.WATERMARK] = config.watermark_blocks
    state[at.CHUNKED] = config.enable_chunked_prefill
    state[at.FULL_ISL] = config.reserve_full_isl
    state[at.BY_PRIORITY] = config.scheduling_policy == "priority"
    state[at.ASYNCHRONOUS] = config.async_scheduling
    state[at.CACHING] = config.enable_prefix_caching
    for nothing in (at.HEAD, at.TAIL, at.NEXT_SLOT, at.RESERVE, at.RECYCLE, at.FLIGHT_COUNT):
        state[nothing] = -1
    state[[at.LOOKED_SLOT, at.LOOKED_MISS]] = -1
    state[at.FREE_SLOTS] = _FIRST_SLOTS - 1
    state[at.TIMELINE_STRIDE] = 1
    state[at.GRAPH_LIMIT] = profile.prefill_graph_max_tokens
    state[at.LEAP] = leap
    return state
