"""vLLM's prefix cache: full blocks by the hash of everything up to their end, freed blocks kept until reused.

The simulator has no tokens; a block's key (:mod:`bidkv.simulator.vllm.content`) stands for its hash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from bidkv.simulator.vllm.content import BlockKey


class PrefixCache:
    """Blocks by id, their reference counts and keys, and the queue of free ones in the order of reuse."""

    def __init__(self, num_blocks: int) -> None:
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._references = [0] * num_blocks
        self._keys: list[BlockKey | None] = [None] * num_blocks
        self._by_key: dict[BlockKey, dict[int, None]] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    def find_leading(self, keys: Sequence[BlockKey], count: int) -> list[int]:
        """Return the cached blocks of the first `count` keys up to the first that is not cached.

        Of several blocks with equal content it is the first that was labeled.
        """
        by_key = self._by_key
        blocks = []
        for key in islice(keys, count):
            holders = by_key.get(key)
            if holders is None:
                break
            blocks.append(next(iter(holders)))
        return blocks

    def count_free(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` nobody holds."""
        references = self._references
        return sum(1 for block in blocks if references[block] == 0)

    def count_private(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` only one request holds: what preempting it would free."""
        references = self._references
        return sum(1 for block in blocks if references[block] == 1)

    def touch(self, blocks: Sequence[int]) -> None:
        """One more request holds `blocks`."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def holds(self, key: BlockKey) -> bool:
        """Return whether a block with this content is cached."""
        return key in self._by_key

    def reuse_first(self, keys: Sequence[BlockKey]) -> int:
        """Move the unreferenced blocks of `keys` to the front of the free queue, the last key's first of all.

        Returns how many blocks were moved, duplicates with equal content included.
        """
        free, references = self._free, self._references
        moved = 0
        for key in keys:
            for block in self._by_key.get(key, ()):
                if not references[block]:
                    free.move_to_end(block, last=False)
                    moved += 1
        return moved

    def take(self, count: int) -> list[int]:
        """Take `count` blocks from the front of the free queue; what they cached is forgotten."""
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def label(self, block: int, key: BlockKey) -> None:
        """`block` is full (or will be when this step has run) and can be found by `key` from now on."""
        self._keys[block] = key
        self._by_key.setdefault(key, {})[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """One request less holds `blocks`: from the last to the first they become free.

        Those without a key go to the front of the queue in that order, the others to its end.
        """
        unlabeled = []
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._keys[block] is None:
                    unlabeled.append(block)
                else:
                    self._free[block] = None
        for block in reversed(unlabeled):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is None:
            return
        self._keys[block] = None
        blocks = self._by_key[key]
        del blocks[block]
        if not blocks:
            del self._by_key[key]
