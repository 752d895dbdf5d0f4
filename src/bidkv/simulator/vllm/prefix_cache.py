"""vLLM's prefix cache: full blocks by the hash of everything up to their end, freed blocks kept until reused.

The simulator has no tokens, so a block's hash is a key that is equal exactly when the content up to the
block's end is: shared prompt chunks are told by their `hash_ids`, everything else belongs to one request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from bidkv.simulator.request import SimRequest

BlockKey = tuple[int, int]
"""(content chain, index of the block); equal keys mean equal content up to the block's end."""


class BlockKeys:
    """Names the content of a request's blocks.

    Args:
        block_size: tokens per KV block.
        chunk_tokens: prompt tokens that one of a request's `hash_ids` stands for (512 in Mooncake traces).
    """

    def __init__(self, block_size: int, chunk_tokens: int) -> None:
        self._block_size = block_size
        self._chunk_tokens = chunk_tokens
        # A chunk's content is the same only after the same predecessors: ids of (chain so far, hash id).
        self._chains: dict[tuple[int, int], int] = {}

    def chain(self, hash_ids: Sequence[int]) -> list[int]:
        """Return the chain identity after each of the leading chunks."""
        chains = self._chains
        result = []
        parent = -1
        for hash_id in hash_ids:
            parent = chains.setdefault((parent, hash_id), len(chains))
            result.append(parent)
        return result

    def known_chain(self, hash_ids: Sequence[int]) -> list[int]:
        """Return the chain identities of the leading chunks that were seen before; learns nothing."""
        result = []
        parent = -1
        for hash_id in hash_ids:
            known = self._chains.get((parent, hash_id))
            if known is None:
                break
            parent = known
            result.append(known)
        return result

    def key(self, request: SimRequest, index: int) -> BlockKey:
        """Return the key of a request's block; its tokens must all be known."""
        end = (index + 1) * self._block_size
        if end <= request._shared_tokens:
            return (request._chain[(end - 1) // self._chunk_tokens], index)
        return (-1 - request._order, index)


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

    def find(self, key: BlockKey) -> int | None:
        """Return a block with this content, the first inserted of several, or None."""
        blocks = self._by_key.get(key)
        return None if blocks is None else next(iter(blocks))

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
