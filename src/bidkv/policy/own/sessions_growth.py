"""Room that cold turns leave free for the growth of resident sessions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from bidkv.protocol.session_views import SessionView


class GrowthRoom:
    """How much of the growth to come is worth empty memory now.

    Growth that finds no room takes the memory of the idle sessions of the lowest retention indices. A block
    kept empty costs the price of memory; a block of a session with index `i` that is kept instead of dropped
    gains `i` less the price. So each block that growth would take counts by the share of its value that is
    gain, 1 - price / i, and not at all where the index is below the price.

    Args:
        ascending: (index, session) of the idle sessions, the lowest index first; a first part of them is
            enough, the others count as its last one.
        price: of memory, in returns per second as the indices.
        retained_blocks: blocks that all idle sessions hold.
    """

    __slots__ = ("_blocks", "_retained_blocks", "_weights", "_worth")

    def __init__(
        self, ascending: Sequence[tuple[float, SessionView]], price: float, retained_blocks: int
    ) -> None:
        blocks = [session.exclusive_blocks for _, session in ascending]
        self._weights = [1.0 - price / index if index > price else 0.0 for index, _ in ascending]
        # Sums over the first sessions: of their blocks, and of the blocks by weight.
        self._blocks = [0, *accumulate(blocks)]
        self._worth = [0.0, *accumulate(b * w for b, w in zip(blocks, self._weights, strict=True))]
        self._retained_blocks = retained_blocks

    def room(self, growth_blocks: float, *, num_dropped: int = 0) -> float:
        """Return the blocks to leave free.

        Args:
            growth_blocks: blocks that the next turns of the resident sessions take.
            num_dropped: sessions, the first ones, that count as dropped already.
        """
        gone = self._blocks[num_dropped]
        growth_blocks = min(growth_blocks, self._retained_blocks - gone)
        if growth_blocks <= 0.0 or not self._weights:
            return 0.0
        end = bisect_left(self._blocks, gone + growth_blocks, num_dropped, len(self._weights))
        beyond = gone + growth_blocks - self._blocks[end]  # negative: only a part of the last one's blocks
        return self._worth[end] - self._worth[num_dropped] + beyond * self._weights[end - 1]
