"""vLLM's prefix cache as the session accounts need it: what is cached, and what is reused first.

Between two turns a session's blocks are free and cached at once: they lie in the free queue, a doubly linked
list in the order in which the engine reuses them. To drop a session its blocks are moved to the front of that
list. Only blocks that no request references are moved, each once, and never the null block. Every block and
its links are checked before the first one is moved, so that a version of vLLM that changed the queue, or a
block in an impossible state, ends in an error that leaves the queue as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, cast

from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.protocol.requests import RequestView

_GROUP = 0
"""The only KV cache group of the models that are supported."""


class FreeQueueError(Exception):
    """The free queue or one of its blocks is not as expected; nothing was moved."""


class VllmPrefixCache:
    """A `SessionCache` over the block pool of a scheduler with one group of full attention.

    Args:
        scheduler: vLLM's scheduler; see :func:`read_unsupported_cache` for which ones.

    Raises:
        FreeQueueError: the free queue is not a doubly linked list as this module expects it.
    """

    __slots__ = ("_block_size", "_coordinator", "_make_key", "_pool")

    def __init__(self, scheduler: Any) -> None:
        from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id

        manager = scheduler.kv_cache_manager
        self._coordinator = manager.coordinator
        self._pool = manager.block_pool
        self._block_size: int = scheduler.block_size
        self._make_key = make_block_hash_with_group_id
        check_free_queue(self._pool)
        if not isinstance(getattr(self._pool.cached_block_hash_to_block, "_cache", None), dict):
            raise FreeQueueError("cached blocks: expected a map from hash to block, found none")

    # --- questions -------------------------------------------------------------------------------
    def cached_tokens(self, request: RequestView) -> int:
        """Return the leading tokens that the engine would find cached now; O(cached blocks).

        Asks the engine's own lookup, which neither touches a block nor counts as a query in its statistics.
        """
        live = cast("VllmRequest", request)._request
        if getattr(live, "skip_reading_prefix_cache", False):
            return 0
        # The last token is always computed: its logits are needed.
        tokens: int = self._coordinator.find_longest_cache_hit(live.block_hashes, live.num_tokens - 1)[1]
        return tokens

    def block_keys(self, request: RequestView) -> Sequence[Hashable]:
        """Return the engine's hashes of the request's full blocks; the list grows with the request."""
        keys: Sequence[Hashable] = cast("VllmRequest", request)._request.block_hashes
        return keys

    def is_cached(self, key: Hashable) -> bool:
        """Return whether a block with this hash is cached; O(1)."""
        return self._find_block(key) is not None

    def _find_block(self, key: Hashable) -> Any | None:
        # The pool replaces its map when the cache is reset, so it is not kept here.
        return self._pool.cached_block_hash_to_block.get_one_block(self._make_key(key, _GROUP))

    def _find_copies(self, key: Hashable) -> list[Any]:
        """Return all blocks with this hash: requests that ran side by side compute the same content twice."""
        found = self._pool.cached_block_hash_to_block._cache.get(self._make_key(key, _GROUP))
        if isinstance(found, dict):
            return list(found.values())
        return [] if found is None else [found]

    # --- retention -------------------------------------------------------------------------------
    reuses_parts = True

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Move cached blocks that no request references to the front of the free queue; O(keys).

        The block of the last key becomes the first to be reused. Returns how many blocks were moved.

        Raises:
            FreeQueueError: a block or its links are not as expected; nothing was moved.
        """
        blocks = self._collect_free(keys)
        if not blocks:
            return 0
        queue = self._pool.free_block_queue
        before = queue.num_free_blocks
        for block in blocks:
            queue.remove(block)
        _prepend(queue, blocks)
        if queue.num_free_blocks != before:
            raise FreeQueueError(
                f"free blocks: expected {before} after moving, found {queue.num_free_blocks}"
            )
        return len(blocks)

    def _collect_free(self, keys: Sequence[Hashable]) -> list[Any]:
        """Return the blocks of `keys` that may be moved, the last key's first, after checking them all."""
        blocks: list[Any] = []
        seen: set[int] = set()
        for key in reversed(keys):  # of a key that comes twice the last place counts
            for block in reversed(self._find_copies(key)):
                if block.ref_cnt > 0 or block.block_id in seen:
                    continue
                seen.add(block.block_id)
                if block.block_hash != self._make_key(key, _GROUP):
                    raise FreeQueueError(f"block {block.block_id} is cached under a hash that is not its own")
                _check_block(block)
                blocks.append(block)
        if len(blocks) > self._pool.free_block_queue.num_free_blocks:
            raise FreeQueueError(
                f"free queue: expected at least {len(blocks)} blocks, "
                f"its count says {self._pool.free_block_queue.num_free_blocks}"
            )
        return blocks


def read_unsupported_cache(scheduler: Any) -> str | None:
    """Return why sessions are left to vLLM's own LRU in this scheduler, or None where they are tracked."""
    manager = scheduler.kv_cache_manager
    if not manager.enable_caching:
        return "prefix caching is off"
    managers = manager.coordinator.single_type_managers
    if len(managers) != 1:
        return f"the model has {len(managers)} groups of KV cache"
    kind = type(managers[0]).__name__
    if kind != "FullAttentionManager":
        return f"the model's KV cache is managed by {kind}"
    if scheduler.connector is not None and scheduler.vllm_config.kv_transfer_config.kv_role != "kv_both":
        return "a KV connector hands requests over to another engine"
    if managers[0].block_size != scheduler.block_size:
        return f"a cache block has {managers[0].block_size} tokens, the scheduler's {scheduler.block_size}"
    return None


def check_free_queue(pool: Any) -> None:
    """Walk through the whole free queue of a block pool; O(free blocks).

    Raises:
        FreeQueueError: a link, a block's state or the count is not as expected.
    """
    queue = pool.free_block_queue
    try:
        head, tail = queue.fake_free_list_head, queue.fake_free_list_tail
        count = 0
        block = head.next_free_block
        while block is not tail:
            _check_block(block)
            count += 1
            if count > pool.num_gpu_blocks:
                raise FreeQueueError("free queue: expected an end, found a circle")
            block = block.next_free_block
        if tail.prev_free_block.next_free_block is not tail:
            raise FreeQueueError("free queue: its tail is not linked back")
        unheld = sum(block.ref_cnt == 0 and not block.is_null for block in pool.blocks)
        if not count == queue.num_free_blocks == unheld:
            raise FreeQueueError(
                f"free queue: expected {unheld} blocks without a holder, found {count}, "
                f"its count says {queue.num_free_blocks}"
            )
    except AttributeError as error:
        raise FreeQueueError(f"free queue: {error}") from error


def _check_block(block: Any) -> None:
    """Check one block that should lie in the free queue."""
    before, after = block.prev_free_block, block.next_free_block
    if block.ref_cnt != 0 or block.is_null:
        raise FreeQueueError(
            f"block {block.block_id} in the free queue: expected no holder, found {block.ref_cnt}"
            f"{', the null block' if block.is_null else ''}"
        )
    if before is None or after is None:
        raise FreeQueueError(f"block {block.block_id} has no holder and is not in the free queue")
    if before.next_free_block is not block or after.prev_free_block is not block:
        raise FreeQueueError(f"block {block.block_id}: its neighbors in the free queue are not linked to it")


def _prepend(queue: Any, blocks: list[Any]) -> None:
    """Put blocks at the front of the free queue, the first one first."""
    if hasattr(queue, "prepend_n"):
        queue.prepend_n(blocks)
        return
    before = queue.fake_free_list_head
    first = before.next_free_block
    for block in blocks:
        block.prev_free_block = before
        before.next_free_block = block
        before = block
    before.next_free_block = first
    first.prev_free_block = before
    queue.num_free_blocks += len(blocks)
