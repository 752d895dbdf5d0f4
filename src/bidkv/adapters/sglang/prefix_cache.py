"""SGLang's prefix tree as the session accounts need it: what is cached, and what is reused first.

SGLang evicts whole leaves of its tree, the least recently used first. To drop a session, the nodes that only
it uses are made older than all others. Nothing is evicted, moved or freed here, and no node that a request
has locked is touched. References of SGLang's own session cache (`--enable-session-radix-cache`) to those
nodes are released by SGLang's own method, since they would protect the nodes.

Only the tree core written in Python can be told. The one written in Rust keeps its order to itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

from bidkv.adapters.sglang.request_view import SglangRequest
from bidkv.protocol.requests import RequestView

SMALLEST_PAGE_TOKENS = 16
"""Smaller pages would make the session accounts a list of single tokens."""
_TOKEN = "q"
"""SGLang keeps token ids as 64-bit integers."""
_TOKEN_BYTES = array(_TOKEN).itemsize


class PageKey:
    """One page of tokens after everything before it. Equal contents are the same object.

    Attributes:
        parent: the page before it; None for the root of a namespace.
        page: its token ids as bytes.
        end: tokens up to its end.
        namespace: SGLang's extra key and cache salt.
    """

    __slots__ = ("__weakref__", "end", "namespace", "page", "parent")

    def __init__(self, parent: PageKey | None, page: bytes, namespace: tuple[Any, Any]) -> None:
        self.parent = parent
        self.page = page
        self.namespace = namespace
        self.end: int = 0 if parent is None else parent.end + len(page) // _TOKEN_BYTES

    def read_tokens(self) -> array[int]:
        """Return all tokens up to the end of this page; O(tokens)."""
        pages: list[bytes] = []
        key: PageKey | None = self
        while key is not None:
            pages.append(key.page)
            key = key.parent
        tokens = array(_TOKEN)
        tokens.frombytes(b"".join(reversed(pages)))
        return tokens


class SglangPrefixCache:
    """A `SessionCache` over SGLang's unified prefix tree with the Python core.

    Args:
        scheduler: SGLang's scheduler; see :func:`read_unsupported_cache` for which ones.
    """

    def __init__(self, scheduler: Any) -> None:
        from sglang.srt.mem_cache.radix_cache import RadixKey
        from sglang.srt.mem_cache.unified_cache.components.base import ComponentType

        self._tree = scheduler.tree_cache
        self._core = scheduler.tree_cache.tree_core
        self._page_size = int(scheduler.page_size)
        self._make_key = RadixKey
        self._full = ComponentType.FULL
        # A key lives as long as the books hold it, or a key of a later page that builds on it.
        self._keys: WeakValueDictionary[tuple[PageKey | None, Any], PageKey] = WeakValueDictionary()
        self._oldest = 0.0

    # --- questions -------------------------------------------------------------------------------
    def cached_tokens(self, request: RequestView) -> int:
        """Return the leading tokens that SGLang would find cached now; O(tokens), and nothing is touched."""
        req = cast("SglangRequest", request)._req
        tokens = _read_tokens(req)
        # The last token is always computed: its logits are needed.
        return self._match(tokens, len(tokens) - 1, (req.extra_key, req.cache_salt))

    def block_keys(self, request: RequestView) -> Sequence[Hashable]:
        """Return the keys of the request's full pages; O(tokens)."""
        req = cast("SglangRequest", request)._req
        namespace = (req.extra_key, req.cache_salt)
        data = _read_tokens(req).tobytes()
        size = self._page_size * _TOKEN_BYTES
        keys: list[Hashable] = []
        parent = self._intern(None, namespace, b"", namespace)
        for start in range(0, len(data) - size + 1, size):
            page = data[start : start + size]
            parent = self._intern(parent, page, page, namespace)
            keys.append(parent)
        return keys

    def _intern(self, parent: PageKey | None, content: Any, page: bytes, namespace: Any) -> PageKey:
        name = (parent, content)
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = PageKey(parent, page, namespace)
        return key

    def is_cached(self, key: Hashable) -> bool:
        """Return whether a page with this content, and all before it, is cached; O(its tokens)."""
        page = cast("PageKey", key)
        return self._match(page.read_tokens(), page.end, page.namespace) >= page.end

    def _match(self, tokens: array[int], limit: int, namespace: tuple[Any, Any]) -> int:
        extra_key, salt = namespace
        key = self._make_key(tokens[: max(0, limit)], extra_key, cache_salt=salt)
        matched: int = self._core.match_full_device_prefix(key)[0]
        return matched

    # --- retention -------------------------------------------------------------------------------
    reuses_parts = False
    """A node is evicted as a whole, and nodes end where turns ended."""

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Make the nodes of these pages the first that SGLang evicts; return how many pages they hold.

        A node that also holds pages which are not among the keys stays where it is, and so does one that a
        request has locked.
        """
        pages = 0
        run: list[PageKey] = []
        for key in reversed(cast("Sequence[PageKey]", keys)):
            if run and run[-1].parent is not key:
                pages += self._make_old(run)
                run = []
            run.append(key)
        return pages + (self._make_old(run) if run else 0)

    def _make_old(self, run: Sequence[PageKey]) -> int:
        """Make the nodes of consecutive pages, the last page first, older than all others."""
        deepest, first = run[0], run[-1].end - self._page_size
        tokens = 0
        for node, start in self._walk(deepest):
            data = node.component_data[self._full]
            if start < first or data.lock_ref > 0:
                continue
            for session_id in tuple(data.session_ids or ()):
                self._tree.release_radix_session(session_id)
            self._oldest -= 1.0
            node.last_access_time = self._oldest
            tokens += len(node.key)
        return tokens // self._page_size

    def _walk(self, deepest: PageKey) -> list[tuple[Any, int]]:
        """Return the cached nodes up to the end of a page, each with the token where it starts."""
        extra_key, salt = deepest.namespace
        key = self._make_key(deepest.read_tokens(), extra_key, cache_salt=salt)
        nodes: list[tuple[Any, int]] = []
        node, start = self._core.root_node, 0
        while len(key) > 0:
            child = node.children.get(key.child_key(self._page_size))
            if child is None or child.component_data[self._full].value is None:
                break
            length = child.key.match(key, page_size=self._page_size)
            if length < len(child.key):
                break
            nodes.append((child, start))
            node, start, key = child, start + length, key[length:]
        return nodes


def read_unsupported_cache(scheduler: Any) -> str | None:
    """Return why sessions are left to SGLang's own eviction, or None where they are tracked."""
    tree = scheduler.tree_cache
    if not tree.supports_prefix_sharing():
        return "the prefix cache is off"
    core = getattr(tree, "tree_core", None)
    if core is None:
        return f"the prefix cache is a {type(tree).__name__}, which cannot be told"
    if type(core).__name__ != "UnifiedTreeCore":
        return (
            f"the prefix tree is a {type(core).__name__}, which cannot be told; "
            "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND=python or --enable-session-radix-cache selects one "
            "that can"
        )
    kinds = [component.component_type.name for component in core.components]
    if kinds != ["FULL"]:
        return f"the model's KV cache has the parts {', '.join(kinds)}"
    if core.is_eagle:
        return "the tree's keys are pairs of tokens, for speculative decoding"
    if core.enable_hicache or getattr(tree, "linker", None) is not None:
        return "a second level of the cache can bring evicted KV back"
    strategy = type(core.eviction_strategy).__name__
    if strategy != "LRUStrategy":
        return f"the eviction policy is {strategy}, not the least recently used first"
    if scheduler.page_size < SMALLEST_PAGE_TOKENS:
        return (
            f"a page has {scheduler.page_size} tokens; --page-size {SMALLEST_PAGE_TOKENS} or more is needed"
        )
    return None


def _read_tokens(req: Any) -> array[int]:
    return array(_TOKEN, req.origin_input_ids) + array(_TOKEN, req.output_ids)
