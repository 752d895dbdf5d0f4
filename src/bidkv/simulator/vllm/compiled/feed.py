"""Hands arriving requests to the compiled kernel: input rows, segments of content, ranks among equals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.arrivals import Arrival
from bidkv.simulator.content import Prompt
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.content import ContentIndex
from bidkv.simulator.vllm.compiled.memory import Kernel
from bidkv.simulator.vllm.config import EngineConfig


class Feed:
    """The input side of one compiled run.

    Args:
        kernel: what is fed.
        config: the engine's options.
        forgets_sessions: see :class:`ContentIndex`.

    Attributes:
        live: the requests that are in the kernel or on their way to it, by their numbers ("uid").
        facts: what a closed loop's source knows of them.
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
        # Under priority scheduling: (id, uid) of the live requests that arrived at the same moment.
        self._equals: dict[float, list[tuple[str, int]]] | None = (
            {} if config.scheduling_policy == "priority" else None
        )

    def add(self, incoming: Sequence[WorkloadRequest], facts: Sequence[Arrival] = ()) -> None:
        """Append requests, which the engine can run, to the input, in the order of their arrival.

        Args:
            incoming: the requests.
            facts: what their source knows of each; () where it knows nothing of any.
        """
        kernel, model_len = self._kernel, self._model_len
        count = self._make_room(len(incoming))
        if not incoming:
            return
        rows: list[tuple[int, ...]] = []
        for uid, request in enumerate(incoming, self._uid):
            self.live[uid] = request
            prompt, output, cap = request.prompt_tokens, request.output_tokens, request.max_tokens
            if cap is None:
                target, limit = prompt + output, model_len
            else:
                target, limit = prompt + (output if output < cap else cap), prompt + cap
            rows.append(
                (
                    uid,
                    prompt,
                    target if target < model_len else model_len,
                    limit if limit < model_len else model_len,
                    request.priority,
                )
            )
        # As a whole: setting single items of an array costs more than all the rest here.
        end = count + len(incoming)
        kernel.tables.input_s[count:end] = [request.arrival_s for request in incoming]
        inputs = kernel.tables.inputs
        inputs[: at.IN_PRIORITY + 1, count:end] = np.array(rows).T
        inputs[at.IN_PAST : at.IN_GOES_ON + 1, count:end] = 0
        for column, arrival in enumerate(facts, count):
            request = arrival.request
            past_tokens = min(arrival.past_tokens, request.prompt_tokens - 1)
            inputs[at.IN_PAST, column] = past_tokens - past_tokens % self._block_size
            self.facts[self._uid + column - count] = arrival
        first_uid, self._uid = self._uid, self._uid + len(incoming)
        if self._content is not None:
            self._add_content(self._content, incoming, count, first_uid)
        kernel.words[at.INPUT_LENGTH] = end
        if self._equals is not None:
            self._rank(self._equals, incoming, first_uid)

    def remove(self, uid: int) -> WorkloadRequest:
        """The request left the kernel; return it."""
        request = self.live.pop(uid)
        if self._equals is not None:
            equals = self._equals[request.arrival_s]
            equals.remove((request.request_id, uid))
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
        first = self._allocate_segments(len(ends))
        self._segments_used = first  # only until the answer
        self._kernel.tables.blocks.segments[:, first : first + len(ends)] = (ends, nodes)
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
        input_s, inputs = t.input_s, t.inputs
        if left + count > len(input_s):
            input_s = np.zeros(2 * (left + count))
            inputs = np.zeros((at.IN_ROWS, 2 * (left + count)), np.int64)
        if left:
            input_s[:left], inputs[:, :left] = t.input_s[taken:length], t.inputs[:, taken:length]
        if inputs is not t.inputs:
            self._kernel.replace(input_s=input_s, inputs=inputs)
        words[at.INPUT_POSITION] = 0
        words[at.INPUT_LENGTH] = left
        return left

    # --- content ---------------------------------------------------------------------------------
    def _add_content(
        self, content: ContentIndex, incoming: Sequence[WorkloadRequest], count: int, first_uid: int
    ) -> None:
        """Write the segments of requests whose input begins at `count`."""
        ends: list[int] = []
        nodes: list[int] = []
        firsts: list[int] = []
        others: list[tuple[int, int, bool]] = []
        for uid, request in enumerate(incoming, first_uid):
            firsts.append(len(ends))
            placed = content.place(request)
            ends += placed.ends
            nodes += placed.nodes
            facts = self.facts.get(uid)
            goes_on = bool(request.session_id) and not (facts and facts.ends_session)
            others.append((placed.last_node, placed.shared_tokens // self._block_size, goes_on))
        firsts.append(len(ends))
        first = self._allocate_segments(len(ends))
        t, end = self._kernel.tables, count + len(incoming)
        if ends:
            t.blocks.segments[:, first : first + len(ends)] = (ends, nodes)
        starts = np.array(firsts)
        t.inputs[at.IN_FIRST_SEGMENT, count:end] = starts[:-1] + first
        t.inputs[at.IN_SEGMENT_COUNT, count:end] = np.diff(starts)
        rows = (at.IN_LAST_NODE, at.IN_SHARED, at.IN_GOES_ON)
        t.inputs[rows, count:end] = np.array(others).T

    def _allocate_segments(self, count: int) -> int:
        """Return where `count` segments may be written."""
        if self._segments_used + count > self._kernel.tables.blocks.segments.shape[1]:
            self._compact_segments(count)
        first = self._segments_used
        self._segments_used += count
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
