"""Hands arriving requests to the compiled kernel: input rows, segments of content, ranks among equals."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import numpy as np

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.arrivals import Arrival
from bidkv.simulator.content import Prompt
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.content import ContentIndex
from bidkv.simulator.vllm.compiled.memory import Kernel, make_inputs
from bidkv.simulator.vllm.config import EngineConfig

_ROW = Struct(f"{at.IN_ROWS}q")
"""A request's rows of the input, as they lie in memory."""


class Feed:
    """The input side of one compiled run.

    Args:
        kernel: what is fed.
        config: the engine's options.
        forgets_sessions: see :class:`ContentIndex`.

    Attributes:
        live: the requests that are in the kernel or on their way to it, by their numbers ("uid").
        facts: what a closed loop's source knows of them.
        remove: called with the uid of a request that left the kernel; returns the request.
    """

    def __init__(self, kernel: Kernel, config: EngineConfig, *, forgets_sessions: bool) -> None:
        self.live: dict[int, WorkloadRequest] = {}
        self.facts: dict[int, Arrival] = {}
        self._kernel = kernel
        self._model_len = config.model_len
        self._block_size = config.block_size
        self._uid = 0
        self._content = (
            ContentIndex(config.prefix_chunk_tokens, forgets_sessions=forgets_sessions)
            if config.enable_prefix_caching
            else None
        )
        self._segments_used = 0
        # Under priority scheduling: (id, uid) of the live requests that arrived at the same moment, in order.
        self._equals: dict[float, list[tuple[str, int]]] | None = (
            {} if config.scheduling_policy == "priority" else None
        )
        self.remove: Callable[[int], WorkloadRequest] = (
            self.live.pop if self._equals is None else self._remove_ranked
        )

    def add(self, incoming: Sequence[WorkloadRequest]) -> None:
        """Append requests of an open workload, which the engine can run, to the input, by arrival."""
        if not incoming:
            return
        kernel = self._kernel
        count = self._make_room(len(incoming))
        end, first_uid = count + len(incoming), self._uid
        self._uid += len(incoming)
        self.live.update(enumerate(incoming, first_uid))
        inputs = kernel.tables.inputs
        # As a whole: setting single items of an array costs more than all the rest here.
        kernel.tables.input_s[count:end] = [request.arrival_s for request in incoming]
        model_len = self._model_len
        rows: list[int] = []  # one behind the other: an array of tuples takes four times as long to make
        for uid, request in enumerate(incoming, first_uid):
            prompt, output, cap = request.prompt_tokens, request.output_tokens, request.max_tokens
            if cap is None:
                target, limit = prompt + output, model_len
            else:
                target, limit = prompt + (output if output < cap else cap), prompt + cap
            rows.extend(
                (
                    uid,
                    prompt,
                    target if target < model_len else model_len,
                    limit if limit < model_len else model_len,
                )
            )
        inputs[: at.IN_LIMIT + 1, count:end] = np.array(rows).reshape(-1, at.IN_LIMIT + 1).T
        inputs[at.IN_PAST, count:end] = 0
        if self._content is not None:
            self._add_contents(self._content, incoming, count)
            if self._content.is_large:
                self._sweep(self._content)
        kernel.words[at.INPUT_LENGTH] = end
        if self._equals is not None:
            inputs[at.IN_PRIORITY, count:end] = [request.priority for request in incoming]
            self._rank(self._equals, incoming, first_uid)

    def add_arrival(self, arrival: Arrival) -> None:
        """Append a request of a closed loop, which the engine can run, to the input; it arrives last."""
        kernel, model_len = self._kernel, self._model_len
        request, _, past_tokens, ends_session = arrival
        uid = self._uid
        self._uid = uid + 1
        self.live[uid] = request
        self.facts[uid] = arrival
        prompt, output, cap = request.prompt_tokens, request.output_tokens, request.max_tokens
        limit = model_len
        if cap is not None:
            output = output if output < cap else cap
            limit = prompt + cap if prompt + cap < model_len else model_len
        target = prompt + output
        past_tokens = past_tokens if past_tokens < prompt else prompt - 1
        column = self._make_room(1)
        first = count = last_node = shared = goes_on = 0
        content = self._content
        if content is not None:
            ends, nodes, last_node, shared_tokens = content.place(request)
            first, count = self._write_segments(ends, nodes), len(ends)
            shared = shared_tokens // self._block_size
            goes_on = bool(request.session_id) and not ends_session
        kernel.input_seconds[column] = request.arrival_s
        _ROW.pack_into(
            kernel.input_row_bytes,
            column * _ROW.size,
            uid,
            prompt,
            target if target < model_len else model_len,
            limit,
            request.priority,
            0,
            first,
            count,
            last_node,
            past_tokens - past_tokens % self._block_size,
            shared,
            goes_on,
        )
        if content is not None and content.is_large:
            self._sweep(content)
        kernel.words[at.INPUT_LENGTH] = column + 1
        if self._equals is not None:
            self._rank(self._equals, (request,), uid)

    def _remove_ranked(self, uid: int) -> WorkloadRequest:
        request = self.live.pop(uid)
        assert self._equals is not None
        equals = self._equals[request.arrival_s]
        del equals[bisect_left(equals, (request.request_id, uid))]
        if not equals:
            del self._equals[request.arrival_s]
        return request

    def end_session(self, session_id: str) -> None:
        """No turn of the session follows."""
        if self._content is not None:
            self._content.forget(session_id)

    def place_prospect(self, prompt: Prompt) -> None:
        """Put a prompt that has not arrived into the slot for questions about it."""
        if self._content is None:
            return
        ends, nodes = self._content.find(prompt)
        first = self._segments_used = self._write_segments(ends, nodes)  # only until the answer
        rows = self._kernel.rows
        rows[at.TOKENS][at.PROSPECT] = prompt.prompt_tokens
        rows[at.FIRST_SEGMENT][at.PROSPECT] = first
        rows[at.SEGMENT_COUNT][at.PROSPECT] = len(ends)
        rows[at.LAST_NODE][at.PROSPECT] = ContentIndex.UNKNOWN

    def _make_room(self, count: int) -> int:
        """Move what the kernel has not taken yet to the front of the input; return how many that are."""
        t, words = self._kernel.tables, self._kernel.words
        taken, length = words[at.INPUT_POSITION], words[at.INPUT_LENGTH]
        left = length - taken
        if not taken and left + count <= len(self._kernel.input_seconds):
            return left
        input_s, inputs = t.input_s, t.inputs
        if left + count > len(input_s):
            input_s = np.zeros(2 * (left + count))
            inputs = make_inputs(2 * (left + count))
        if left:
            input_s[:left], inputs[:, :left] = t.input_s[taken:length], t.inputs[:, taken:length]
        if inputs is not t.inputs:
            self._kernel.replace(input_s=input_s, inputs=inputs)
        words[at.INPUT_POSITION] = 0
        words[at.INPUT_LENGTH] = left
        return left

    # --- content ---------------------------------------------------------------------------------
    def _add_contents(self, content: ContentIndex, incoming: Sequence[WorkloadRequest], count: int) -> None:
        """Write the segments of requests whose input begins at `count`."""
        ends, nodes = array("q"), array("q")
        columns: list[tuple[int, int, int, int, bool]] = []
        for request in incoming:
            more_ends, more_nodes, last_node, shared_tokens = content.place(request)
            columns.append(
                (
                    len(ends),
                    len(more_ends),
                    last_node,
                    shared_tokens // self._block_size,
                    bool(request.session_id),
                )
            )
            ends += more_ends
            nodes += more_nodes
        first = self._write_segments(ends, nodes)
        inputs, end = self._kernel.tables.inputs, count + len(incoming)
        rows = (at.IN_FIRST_SEGMENT, at.IN_SEGMENT_COUNT, at.IN_LAST_NODE, at.IN_SHARED, at.IN_GOES_ON)
        inputs[rows, count:end] = np.array(columns).T
        inputs[at.IN_FIRST_SEGMENT, count:end] += first

    def _sweep(self, content: ContentIndex) -> None:
        """Forget content that neither a cached block nor a live request has."""
        t = self._kernel.tables
        cached = np.unique(t.blocks.keys[t.blocks.keys >= 0] >> at.INDEX_BITS)
        used = set(cached.tolist())
        used.update(t.blocks.segments[1, : self._segments_used].tolist())
        used.update(t.requests[at.LAST_NODE].tolist(), t.inputs[at.IN_LAST_NODE].tolist())
        content.sweep(used)

    def _write_segments(self, ends: array[int], nodes: array[int]) -> int:
        """Write segments behind all others; return where."""
        first, count = self._segments_used, len(ends)
        if first + count > len(self._kernel.segment_rows[0]):
            self._compact_segments(count)
            first = self._segments_used
        self._segments_used = last = first + count
        end_row, node_row = self._kernel.segment_rows
        end_row[first:last] = ends
        node_row[first:last] = nodes
        return first

    def _compact_segments(self, count: int) -> None:
        """Keep the segments of live requests alone, in an array with room for as many more and `count`."""
        kernel, t = self._kernel, self._kernel.tables
        slots = kernel.live_slots()
        waiting = slice(kernel.words[at.INPUT_POSITION], kernel.words[at.INPUT_LENGTH])
        firsts = np.concatenate((t.requests[at.FIRST_SEGMENT, slots], t.inputs[at.IN_FIRST_SEGMENT, waiting]))
        counts = np.concatenate((t.requests[at.SEGMENT_COUNT, slots], t.inputs[at.IN_SEGMENT_COUNT, waiting]))
        new_firsts = np.cumsum(counts) - counts
        used = int(counts.sum())
        segments = np.zeros((2, max(t.blocks.segments.shape[1], 2 * (used + count))), np.int64)
        segments[:, :used] = t.blocks.segments[:, np.repeat(firsts - new_firsts, counts) + np.arange(used)]
        t.requests[at.FIRST_SEGMENT, slots] = new_firsts[: len(slots)]
        t.inputs[at.IN_FIRST_SEGMENT, waiting] = new_firsts[len(slots) :]
        self._segments_used = used
        kernel.replace(blocks=t.blocks._replace(segments=segments))

    # --- priority scheduling -----------------------------------------------------------------------
    def _rank(
        self, equals: dict[float, list[tuple[str, int]]], incoming: Sequence[WorkloadRequest], first_uid: int
    ) -> None:
        """Where arrivals and priorities are equal, ids decide: rank requests that arrive together by them."""
        crowded = set()
        for uid, request in enumerate(incoming, first_uid):
            group = equals.setdefault(request.arrival_s, [])
            group.append((request.request_id, uid))
            if len(group) > 1:
                crowded.add(request.arrival_s)
        if not crowded:
            return
        ranks: dict[int, int] = {}
        for arrival_s in crowded:
            equals[arrival_s].sort()
            ranks.update((uid, rank) for rank, (_, uid) in enumerate(equals[arrival_s]))
        t, words = self._kernel.tables, self._kernel.words
        waiting = range(words[at.INPUT_POSITION], words[at.INPUT_LENGTH])
        _write_ranks(t.inputs[at.IN_UID], t.inputs[at.IN_RANK], waiting, ranks)
        _write_ranks(t.requests[at.UID], t.requests[at.RANK], self._kernel.live_slots().tolist(), ranks)


def _write_ranks(uids: Any, row: Any, columns: Sequence[int], ranks: dict[int, int]) -> None:
    """Write new ranks into `columns` of a row; the order among those that had one stays the same."""
    for column in columns:
        rank = ranks.get(int(uids[column]))
        if rank is not None:
            row[column] = rank
