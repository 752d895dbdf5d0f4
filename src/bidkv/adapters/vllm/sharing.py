"""How many of its blocks each running request holds alone, without a look at every block of every request.

A block gets another holder only when a request is admitted with it as a cached prefix, and loses one only
when a request is preempted or ends. So arrivals and departures are noted at the event, and a question looks
only at the requests that arrived since, no deeper than any block is shared. Blocks that a request appends
later are its own and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.protocol.read_only import write_facts


class SharedBlocks:
    """Keeps count of shared blocks, for engines that share leading blocks only.

    The count of a request is kept in its view: `num_shared_blocks` among its first `num_noted_blocks` blocks.
    """

    __slots__ = ("_came", "_depth", "_growing", "_holders", "_known")

    def __init__(self) -> None:
        self._came: dict[VllmRequest, None] = {}
        self._known: dict[VllmRequest, None] = {}
        # Requests that hold fewer blocks than the deepest shared one, and may append more.
        self._growing: dict[VllmRequest, None] = {}
        self._depth = 0
        # Holders of the blocks that lie less than `_depth` deep; no block beyond that is shared.
        self._holders: dict[int, set[VllmRequest]] = {}

    def came(self, request: VllmRequest) -> None:
        """A request was admitted; O(1)."""
        self._came[request] = None

    def left(self, request: VllmRequest) -> None:
        """Note that a request gave up its blocks; O(depth of shared blocks), O(1) if none was counted."""
        self._came.pop(request, None)
        if request not in self._known:
            return
        del self._known[request]
        self._growing.pop(request, None)
        holders = self._holders
        for block in request._blocks[: request.num_noted_blocks]:
            others = holders[block.block_id]
            others.remove(request)
            if not others:
                del holders[block.block_id]
            elif len(others) == 1:
                _add_shared(next(iter(others)), -1)
        if not self._known:
            self._depth = 0

    def private_blocks(self, requests: Sequence[VllmRequest]) -> list[int]:
        """Blocks that each of these running requests holds alone."""
        if self._came:
            self._take_in()
        return [len(request._blocks) - request.num_shared_blocks for request in requests]

    def _take_in(self) -> None:
        depth = self._depth
        for request in self._came:
            if request not in self._known:
                write_facts(request, num_noted_blocks=0, num_shared_blocks=0)
                self._known[request] = self._growing[request] = None
                self._depth = _shared_depth(request._blocks, self._depth)
        self._came.clear()
        to_note = self._growing if self._depth == depth else self._known
        for request in to_note:
            self._note(request)
        self._growing = {request: None for request in to_note if request.num_noted_blocks < self._depth}

    def _note(self, request: VllmRequest) -> None:
        """Note the holder of each block up to the depth at which blocks are shared."""
        start = request.num_noted_blocks
        end = min(self._depth, len(request._blocks))
        write_facts(request, num_noted_blocks=end)
        for block in request._blocks[start:end]:
            others = self._holders.setdefault(block.block_id, set())
            if others:
                _add_shared(request, 1)
                if len(others) == 1:
                    _add_shared(next(iter(others)), 1)
            others.add(request)


def _add_shared(request: VllmRequest, count: int) -> None:
    write_facts(request, num_shared_blocks=request.num_shared_blocks + count)


def _shared_depth(blocks: Sequence[Any], least: int) -> int:
    """Count the blocks up to the last one with more than one holder, or `least` if that is more."""
    shared = [depth for depth, block in enumerate(blocks, start=1) if block.ref_cnt > 1]
    return max(least, shared[-1]) if shared else least
