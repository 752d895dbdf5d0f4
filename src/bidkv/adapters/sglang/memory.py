"""KV memory of SGLang's scheduler, counted from its allocator and from the locks of its prefix tree.

Tokens are SGLang's unit; a "block" elsewhere in this project is one page of its allocator.
"""

from __future__ import annotations

from typing import Any


def available_tokens(allocator: Any, tree: Any) -> int:
    """Return the tokens the next allocation can get: free ones, and cached ones that no request has locked.

    With a sliding-window or state-space model the full-attention pool is counted: a longer sequence takes
    from it, and SGLang's own admission budget counts it.
    """
    if hasattr(allocator, "full_available_size"):
        return int(allocator.full_available_size() + tree.full_evictable_size())
    evictable = tree.full_evictable_size() if tree.supports_mamba() else tree.evictable_size()
    return int(allocator.available_size() + evictable)


def freed_tokens(req: Any, tree: Any, page_size: int) -> int:
    """Return the tokens that retracting `req` makes available.

    Its own KV is `[cache_protected_len, kv_allocated_len)`, given back by whole pages. The part before that
    belongs to the prefix tree. What no other request has locked of it becomes evictable, and SGLang evicts it
    in the same retraction.
    """
    kv = req.kv
    own = -(-kv.kv_allocated_len // page_size) * page_size - kv.cache_protected_len
    return int(max(0, own) + solely_locked_tokens(req, tree))


def solely_locked_tokens(req: Any, tree: Any) -> int:
    """Return the tokens of the prefix tree that `req` alone has locked; the tree is left as it was."""
    lock = req.lock
    if lock is None or not tree.supports_prefix_sharing():
        return 0
    core = getattr(tree, "tree_core", None)
    if core is None:
        return _locked_once(lock.node)
    if lock.receipt.skipped_lock_components or core.is_root(lock.node):
        return 0
    # A tree core may live outside Python and hide its lock counts, but it shows its total of locked tokens.
    # While this request's pin is lifted, the total is lower by exactly what this request alone had locked.
    locked = core.full_protected_size()
    core.dec_full_pin(lock.node)
    try:
        return int(locked - core.full_protected_size())
    finally:
        core.inc_full_pin(lock.node)


def _locked_once(node: Any) -> int:
    # Lock counts never grow from the root towards a leaf, so the first node shared ends the walk.
    tokens = 0
    while node.parent is not None and node.lock_ref == 1:
        tokens += len(node.key)
        node = node.parent
    return tokens
