"""The KV blocks of a model with sliding windows or states beside full attention: rules 22 to 25.

Each window is a group of layers with blocks of its own. A request has as many rows of blocks as its positions
need; a row is one block of full attention and of every window. What has left a window is given back, so a
group with a window keeps the last blocks alone. A group of state-space layers holds one block for the state
of a request, however long it is. All groups take their blocks from one pool.
"""

from __future__ import annotations

from bidkv.simulator.request import SimRequest
from bidkv.simulator.vllm.config import EngineConfig


class GroupBlocks:
    """Counts the blocks of the requests of one engine.

    Args:
        config: an engine with `sliding_windows` or `state_groups`.

    Attributes:
        row: blocks that a request takes for `block_size` more positions.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._size = config.block_size
        self._windows = config.sliding_windows
        self._caps = config.window_blocks
        self._states = config.state_groups
        self.row = 1 + len(config.sliding_windows)

    def count_given_back(self, request: SimRequest) -> int:
        """Blocks that a request gives back before it takes new ones (rule 23)."""
        size, computed = self._size, request._num_computed_tokens
        # The next position sees itself and the last `window - 1` computed ones.
        left = sum([max(0, computed - window + 1) // size for window in self._windows])
        return left - request._given_back

    def count_missing(self, request: SimRequest, end: int) -> int:
        """Blocks that a request takes so that its positions up to `end` have a place (rules 22 and 25)."""
        taken = request._num_held_blocks + request._given_back
        if not taken:
            return self._states + -(-end // self._size) * self.row
        rows = (taken - self._states) // self.row
        return max(0, -(-end // self._size) - rows) * self.row

    def count_most(self, tokens: int) -> int:
        """Blocks that a sequence of so many tokens holds at most at once (rules 24 and 25)."""
        rows = -(-tokens // self._size)
        return self._states + rows + sum([min(rows, cap) for cap in self._caps])
