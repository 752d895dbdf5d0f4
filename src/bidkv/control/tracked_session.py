"""One session of the accounts, as policies see it and as the ledger keeps it."""

from __future__ import annotations

from bidkv.control.prefix_tree import PrefixTree
from bidkv.protocol.read_only import seal


class TrackedSession:
    """One session; satisfies `SessionView`. It is sealed: the ledger writes to it, policies cannot."""

    __slots__ = (
        "_leaf",
        "_live",
        "_tree",
        "agent_id",
        "context_tokens",
        "first_arrival_s",
        "gap_hint_s",
        "idle_since_s",
        "is_over",
        "is_told",
        "num_turns",
        "priority",
        "session_id",
        "told_as",
        "weight",
    )

    def __init__(self, session_id: str, now_s: float, tree: PrefixTree, *, told_as: str = "") -> None:
        self.session_id = session_id
        self.told_as = told_as
        self.is_told = bool(told_as)
        self.agent_id = ""
        self.priority = 0
        self.weight = 1.0
        self.first_arrival_s = now_s
        self.num_turns = 0
        self.idle_since_s: float | None = None
        self.gap_hint_s: float | None = None
        self.context_tokens = 0
        self.is_over = False
        self._tree = tree
        self._leaf = tree.root
        self._live: set[str] = set()
        seal(self)

    @property
    def cached_blocks(self) -> int:
        """Full blocks of its past that are believed to be cached."""
        return self._leaf.end

    @property
    def exclusive_blocks(self) -> int:
        """Blocks of them that dropping it makes reusable."""
        return self._tree.count_exclusive(self._leaf)

    def __repr__(self) -> str:
        return f"TrackedSession({self.session_id!r}, turns={self.num_turns}, blocks={self.cached_blocks})"
