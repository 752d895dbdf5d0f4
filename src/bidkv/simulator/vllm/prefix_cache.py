"""vLLM's prefix cache: full blocks by the hash of everything up to their end, freed blocks kept until reused.

The simulator has no tokens; a block's key (:mod:`bidkv.simulator.vllm.content`) stands for its hash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import cast

from bidkv.simulator.vllm.content import BlockKey


class PrefixCache:
    """Blocks by id, their reference counts and keys, and the queue of free ones in the order of reuse.

    Attributes:
        retained_blocks: free blocks that hold the past of a session that goes on; shared ones count once.
    """

    def __init__(self, num_blocks: int) -> None:
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._references = [0] * num_blocks
        self._keys: list[BlockKey | None] = [None] * num_blocks
        # The first labeled block of each content, and those with equal content in the order of labeling.
        self._by_key: dict[BlockKey, int] = {}
        self._copies: dict[BlockKey, dict[int, None]] = {}
        self._retained = bytearray(num_blocks)
        self.retained_blocks = 0

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return len(self._free)

    def find_leading(self, keys: Sequence[BlockKey], count: int) -> list[int]:
        """Return the cached blocks of the first `count` keys up to the first that is not cached.

        Of several blocks with equal content it is the first that was labeled.
        """
        find = self._by_key.get
        blocks = []
        for key in islice(keys, count):
            block = find(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def __contains__(self, key: Hashable) -> bool:
        """Whether a block of this content is cached."""
        return key in self._by_key

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Move free blocks to the front of the queue, the last key's block to the very front.

        Blocks that a request holds, and keys that are not cached, stay as they are. All blocks of equal
        content are moved. Return how many were moved.
        """
        moved = 0
        free = self._free
        for key in keys:
            first = self._by_key.get(cast("BlockKey", key))
            if first is None:
                continue
            for block in (first, *self._copies.get(cast("BlockKey", key), ())):
                if block in free:
                    free.move_to_end(block, last=False)
                    self.retained_blocks -= self._retained[block]
                    self._retained[block] = 0
                    moved += 1
        return moved

    def count_free(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` no request holds."""
        references = self._references
        return sum(1 for block in blocks if references[block] == 0)

    def count_private(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` only one request holds: what preempting it would free."""
        references = self._references
        return sum(1 for block in blocks if references[block] == 1)

    def touch(self, blocks: Sequence[int]) -> None:
        """One more request holds `blocks`."""
        free, references = self._free, self._references
        for block in blocks:
            if references[block] == 0:
                del free[block]
                self.retained_blocks -= self._retained[block]
            references[block] += 1

    def take(self, count: int) -> list[int]:
        """Take `count` blocks from the front of the free queue; what they cached is forgotten."""
        pop, keys, references = self._free.popitem, self._keys, self._references
        by_key, copies, retained = self._by_key, self._copies, self._retained
        taken = []
        for _ in range(count):
            block = pop(last=False)[0]
            references[block] = 1
            taken.append(block)
            key = keys[block]
            if key is not None:
                keys[block] = None
                self.retained_blocks -= retained[block]
                if key in copies:
                    self._forget_copy(block, key)
                else:
                    del by_key[key]
            retained[block] = 0
        return taken

    def _forget_copy(self, block: int, key: BlockKey) -> None:
        """Forget one of several blocks with equal content."""
        copies = self._copies[key]
        if self._by_key[key] == block:
            self._by_key[key] = block = next(iter(copies))
        del copies[block]
        if not copies:
            del self._copies[key]

    def label(self, blocks: Sequence[int], keys: Sequence[BlockKey], start: int, stop: int) -> None:
        """Make a request's blocks `start` to `stop` findable: they are full, or will be after this step."""
        key_of_block, by_key = self._keys, self._by_key
        for index in range(start, stop):
            block, key = blocks[index], keys[index]
            key_of_block[block] = key
            if by_key.setdefault(key, block) != block:
                self._copies.setdefault(key, {})[block] = None

    def release(self, blocks: Sequence[int], *, retain: bool = False, num_shared: int = 0) -> None:
        """One request less holds `blocks`: from the last to the first they become free.

        Those without a key go to the front of the queue in that order, the others to its end.

        Args:
            blocks: all that the request holds.
            retain: whether its session goes on; its blocks then count as retained until they are reused.
            num_shared: leading blocks that other sessions may use too; they stay retained if they are.
        """
        free, keys, references, retained = self._free, self._keys, self._references, self._retained
        for block in blocks if retain else islice(blocks, num_shared, None):
            retained[block] = retain
        unlabeled = []
        newly_retained = 0
        for block in reversed(blocks):
            references[block] = left = references[block] - 1
            if left:
                continue
            if keys[block] is None:
                unlabeled.append(block)
            else:
                free[block] = None
                newly_retained += retained[block]
        self.retained_blocks += newly_retained
        for block in reversed(unlabeled):
            free[block] = None
            free.move_to_end(block, last=False)
