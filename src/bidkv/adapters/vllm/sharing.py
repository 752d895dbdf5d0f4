"""How many of its blocks each running request holds alone, without looking at every block of everybody.

A block gets another holder only when a request is admitted with it as a cached prefix, and loses one only
when a request is preempted or ends. So who came and who left is noted at the event, and a question looks only
at who came, no deeper than anybody shares; blocks that a request takes at its end change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bidkv.adapters.vllm.views import VllmRequest


class Holding:
    """One request's blocks (the engine's own list), how many of them others hold too, how many are noted."""

    __slots__ = ("blocks", "noted", "shared")

    def __init__(self, blocks: list[Any]) -> None:
        self.blocks = blocks
        self.noted = 0
        self.shared = 0


class SharedBlocks:
    """Keeps count of shared blocks, for engines that share leading blocks only.

    Args:
        held: each request's blocks by request id, as the engine keeps them.
    """

    __slots__ = ("_came", "_depth", "_growing", "_held", "_holders", "_holdings")

    def __init__(self, held: Mapping[str, list[Any]]) -> None:
        self._held = held
        self._came: dict[VllmRequest, None] = {}
        self._holdings: dict[Holding, None] = {}
        # Who holds fewer blocks than somebody shares, and may take more of them.
        self._growing: dict[Holding, None] = {}
        self._depth = 0
        # Holders of the blocks that lie less than `_depth` deep: beyond it nobody shares.
        self._holders: dict[int, set[Holding]] = {}

    def came(self, request: VllmRequest) -> None:
        """A request was admitted; O(1)."""
        self._came[request] = None

    def left(self, request: VllmRequest) -> None:
        """A request gave up its blocks; O(blocks as deep as somebody shares), O(1) if nobody asked since."""
        self._came.pop(request, None)
        holding: Holding | None = request.holding
        if holding is None:
            return
        request.holding = None
        del self._holdings[holding]
        self._growing.pop(holding, None)
        holders = self._holders
        for block in holding.blocks[: holding.noted]:
            others = holders[block.block_id]
            others.remove(holding)
            if not others:
                del holders[block.block_id]
            elif len(others) == 1:
                next(iter(others)).shared -= 1
        if not self._holdings:
            self._depth = 0

    def private_blocks(self, requests: Sequence[VllmRequest]) -> list[int]:
        """Blocks that each of these running requests holds alone."""
        if self._came:
            self._take_in()
        return [len((own := request.holding).blocks) - own.shared for request in requests]

    def _take_in(self) -> None:
        depth = self._depth
        for request in self._came:
            if request.holding is None:
                request.holding = holding = Holding(self._held[request.request_id])
                self._holdings[holding] = self._growing[holding] = None
                self._depth = _shared_depth(holding.blocks, self._depth)
        self._came.clear()
        to_note = self._growing if self._depth == depth else self._holdings
        for holding in to_note:
            self._note(holding)
        self._growing = {holding: None for holding in to_note if holding.noted < self._depth}

    def _note(self, holding: Holding) -> None:
        """Note who holds the blocks up to the depth at which somebody shares."""
        start, holding.noted = holding.noted, min(self._depth, len(holding.blocks))
        for block in holding.blocks[start : holding.noted]:
            others = self._holders.setdefault(block.block_id, set())
            if others:
                holding.shared += 1
                if len(others) == 1:
                    next(iter(others)).shared += 1
            others.add(holding)


def _shared_depth(blocks: list[Any], least: int) -> int:
    """Count the blocks up to the last one with more than one holder, or `least` if that is more."""
    shared = [depth for depth, block in enumerate(blocks, start=1) if block.ref_cnt > 1]
    return max(least, shared[-1]) if shared else least
