"""The session accounts: which request belongs to which, what of each is cached, which blocks are shared.

An engine reports events through :class:`bidkv.control.Controller` and offers block-level facts
(:class:`bidkv.protocol.SessionCache`); everything else about sessions is kept here, once for all engines.
Bookkeeping alone drifts, since the engine's LRU takes blocks without telling: at every arrival the engine is
asked what is really cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from bidkv.control.past_index import PastIndex
from bidkv.control.prefix_tree import PrefixNode, PrefixTree
from bidkv.control.tracked_session import TrackedSession
from bidkv.protocol.policy import EngineView
from bidkv.protocol.read_only import write_facts
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionCache, SessionView

MOST_SESSIONS = 16_384
"""Most idle sessions and most cold ones remembered: clients that make up a new id for every request must not
fill the memory of the host."""


_MOST_CHECKED = 8
"""Sessions whose cache is looked at in one event. The longest idle come first, but one that shares a prefix
may have kept its blocks longer than a later one."""


@dataclass(slots=True)
class SessionFigures:
    """What the session accounts counted; integers that only grow.

    Attributes:
        turns_told: arrivals whose client named a session.
        turns_found: arrivals that were matched by prefix with the past of a session that no client named.
        prompt_tokens: prompt tokens of all requests at their first admission.
        prefix_hit_tokens: the part of them that was found in the prefix cache.
        lost_prefix_tokens: the part of them that an earlier turn of the same session had computed, and that
            was no longer cached. A past that the client rewrote counts as if it had been kept.
    """

    turns_told: int = 0
    turns_found: int = 0
    prompt_tokens: int = 0
    prefix_hit_tokens: int = 0
    lost_prefix_tokens: int = 0


class SessionLedger:
    """All sessions of one engine; satisfies `SessionTable`.

    Args:
        cache: the engine's block-level facts.
        finds_by_prefix: whether a request without a told session is matched with the past it repeats.

    Attributes:
        collects_loose_keys: whether the blocks that sessions leave behind are remembered for :meth:`settle`.
        figures: what was counted, see :class:`SessionFigures`.
    """

    def __init__(self, cache: SessionCache, *, finds_by_prefix: bool = True) -> None:
        self._in_use = False
        self.figures = SessionFigures()
        self._cache = cache
        self.finds_by_prefix = finds_by_prefix
        self._tree = PrefixTree()
        self._told: dict[str, TrackedSession] = {}
        self._names: set[str] = set()
        self._num_renamed = 0
        self._idle: OrderedDict[str, TrackedSession] = OrderedDict()
        self._shown_idle: Mapping[str, SessionView] = MappingProxyType(self._idle)
        self._by_request: dict[str, TrackedSession] = {}
        self._held: dict[str, PrefixNode] = {}
        self._pasts = PastIndex(MOST_SESSIONS)
        self._cold: OrderedDict[str, TrackedSession] = OrderedDict()
        self._forgotten: list[TrackedSession] = []
        self._loose_keys: list[Hashable] = []
        self.collects_loose_keys = False

    @property
    def in_use(self) -> bool:
        """Whether a session was told, or a second turn was found by its prefix."""
        return self._in_use

    @property
    def idle(self) -> Mapping[str, SessionView]:
        """Sessions between two turns with cached blocks, the longest idle first."""
        return self._shown_idle

    @property
    def drops_parts(self) -> bool:
        """Whether :meth:`drop` can keep a part."""
        return self._cache.reuses_parts

    @property
    def num_running(self) -> int:
        """Requests that run and belong to a session; safe to read from another thread."""
        return len(self._held)

    @property
    def num_waiting(self) -> int:
        """Requests that wait and belong to a session; safe to read from another thread."""
        return max(0, len(self._by_request) - len(self._held))

    @property
    def retained_blocks(self) -> int:
        """Cached blocks no running request holds that a known session would use again."""
        return self._tree.retained_blocks

    def session_for(self, request: RequestView) -> SessionView | None:
        """Return the session of a live request."""
        return self._by_request.get(request.request_id)

    def is_idle(self, session: Any) -> bool:
        """Return whether a policy's answer is one of the idle sessions; it may be anything at all."""
        try:
            return self._idle.get(session.session_id) is session
        except Exception:  # not a session: whatever its attributes do when they are read
            return False

    # --- events ----------------------------------------------------------------------------------
    def arrive(self, request: RequestView, engine: EngineView) -> None:
        """`request` waits: find its session and check what of its past is cached."""
        if not request.session_id and not self.finds_by_prefix:
            return
        session = self._find_session(request, engine.now_s)
        write_facts(
            session,
            agent_id=request.agent_id,
            priority=request.priority,
            weight=request.weight,
            num_turns=session.num_turns + 1,
            idle_since_s=None,
            gap_hint_s=None,
        )
        self.figures.turns_told += session.is_told
        self.figures.turns_found += not session.is_told and session.num_turns > 1
        session._live.add(request.request_id)
        self._by_request[request.request_id] = session
        self._idle.pop(session.session_id, None)
        self._cold.pop(session.session_id, None)
        self._pasts.remove(session)
        self._in_use = self._in_use or session.is_told or session.num_turns > 1
        self._move(session, request, self._cache.cached_tokens(request), engine)

    def _find_session(self, request: RequestView, now_s: float) -> TrackedSession:
        name = request.session_id
        if name:
            session = self._told.get(name)
            if session is None:
                session = self._told[name] = self._make_session(name, now_s, is_told=True)
            write_facts(session, is_over=request.is_last_turn)
            return session
        found = self._pasts.find(self._cache.block_keys(request))
        if found is not None:
            return found
        return self._make_session(f"~{request.request_id}", now_s, is_told=False)

    def _make_session(self, name: str, now_s: float, *, is_told: bool) -> TrackedSession:
        """Return a new session under a name that no other has: a client may send a request's id again."""
        unique = name
        while unique in self._names:
            self._num_renamed += 1
            unique = f"{name}#{self._num_renamed}"
        self._names.add(unique)
        return TrackedSession(unique, now_s, self._tree, told_as=name if is_told else "")

    def admit(self, request: RequestView, cached_tokens: int, engine: EngineView) -> None:
        """`request` runs and references its cached blocks."""
        session = self._by_request.get(request.request_id)
        if session is None or request.request_id in self._held:
            return
        if not request.num_preemptions:
            self._count_prefix(session, request, cached_tokens, engine.block_size)
        cached = min(cached_tokens // engine.block_size, session._leaf.end)
        if cached < session._leaf.end:  # the LRU took some of them while it waited
            self._shorten(session, cached)
        self._tree.hold(session._leaf)
        self._held[request.request_id] = session._leaf

    def preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """`request` waits again; the blocks of its `lost_tokens` computed tokens are free but cached."""
        self._release(request)
        session = self._by_request.get(request.request_id)
        if session is not None and lost_tokens // engine.block_size > session._leaf.end:
            self._move(session, request, lost_tokens, engine)

    def finish(self, request: RequestView, engine: EngineView) -> TrackedSession | None:
        """`request` left the engine; return its session if no other turn of it is live."""
        self._release(request)
        session = self._by_request.pop(request.request_id, None)
        if session is None:
            return None
        session._live.discard(request.request_id)
        computed = request.num_computed_tokens
        if computed // engine.block_size > session._leaf.end or not session._live:
            self._move(session, request, computed, engine)
            write_facts(session, context_tokens=request.num_prompt_tokens + request.num_output_tokens)
        if session._live:
            return None
        write_facts(
            session, gap_hint_s=request.gap_hint_s, is_over=request.is_last_turn, idle_since_s=engine.now_s
        )
        if session.is_over:
            self._forget(session)
        elif session._leaf is self._tree.root:
            self._grow_cold(session)
        else:
            self._idle[session.session_id] = session
        if not session.is_told and not session.is_over:
            self._list_past(session, request, engine.block_size)
        return session

    def _list_past(self, session: TrackedSession, request: RequestView, block_size: int) -> None:
        """Make an untold session known by the past with which its turn ended."""
        keys = self._cache.block_keys(request)
        # A turn that was given up before it was computed may be sent again: its prompt is enough.
        known = max(request.num_computed_tokens, request.num_prompt_tokens) // block_size
        self._pasts.add(session, keys[:known], request.num_prompt_tokens // block_size)

    # --- forgetting ------------------------------------------------------------------------------
    def drop(self, session: SessionView, blocks: int) -> int:
        """Make the engine reuse the last blocks of an idle session first; return how many were moved.

        Args:
            session: one of `idle`. It is idle no more if all its exclusive blocks go.
            blocks: how many; more than are exclusive mean all of these.
        """
        tracked = self._idle[session.session_id]
        if blocks < tracked.exclusive_blocks:
            keys = self._shorten(tracked, tracked._leaf.end - blocks)
        else:
            del self._idle[session.session_id]
            keys = self._take_past(tracked)
            self._grow_cold(tracked)
        return self._cache.reuse_first(keys)

    def settle(self) -> int:
        """Make the engine reuse what sessions left behind (ended, rewritten pasts); return blocks moved."""
        if not self._loose_keys:
            return 0
        keys, self._loose_keys = self._loose_keys, []
        return self._cache.reuse_first(keys)

    def take_forgotten(self, engine: EngineView) -> list[TrackedSession]:
        """Forget what the engine's LRU took, and return the sessions that are not known any more.

        The cache is looked at only while the books say that more is retained than is free, which cannot be:
        then the LRU took blocks of the sessions that are idle for longest.
        """
        for session in list(islice(self._idle.values(), max(_MOST_CHECKED, len(self._idle) - MOST_SESSIONS))):
            too_many = len(self._idle) > MOST_SESSIONS
            if self._tree.retained_blocks <= engine.free_blocks and not too_many:
                break
            cached = 0 if too_many else self._count_cached(session)
            if cached < session._leaf.end:
                self._shorten(session, cached)
            if not cached:
                del self._idle[session.session_id]
                self._grow_cold(session)
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def reset(self) -> None:
        """The engine threw its prefix cache away: no past is cached any more."""
        for session in list(self._idle.values()):
            self._take_past(session)
            self._grow_cold(session)
        self._idle.clear()
        self._loose_keys.clear()

    def clear(self) -> None:
        """Know no session any more, whatever state the books are in; what was counted stays."""
        self._in_use = self.collects_loose_keys = False
        self._tree, self._pasts = PrefixTree(), PastIndex(MOST_SESSIONS)
        for book in (self._told, self._names, self._idle, self._by_request, self._held, self._cold):
            book.clear()
        self._forgotten.clear()
        self._loose_keys.clear()

    # --- helpers ---------------------------------------------------------------------------------
    def _count_prefix(
        self, session: TrackedSession, request: RequestView, cached_tokens: int, block_size: int
    ) -> None:
        figures = self.figures
        figures.prompt_tokens += request.num_prompt_tokens
        figures.prefix_hit_tokens += cached_tokens
        # Neither the last answer's last token nor the prompt's own last one can come from the cache, and a
        # block that was not full could not be cached.
        past = min(session.context_tokens, request.num_prompt_tokens) - 1
        if session.num_turns > 1 and past > cached_tokens:
            figures.lost_prefix_tokens += past - past % block_size - cached_tokens

    def _release(self, request: RequestView) -> None:
        held = self._held.pop(request.request_id, None)
        if held is not None:
            self._tree.release(held)

    def _count_cached(self, session: TrackedSession) -> int:
        """Blocks of an idle session's past that are cached; the engine reuses the last ones first."""
        node = session._leaf
        is_cached = self._cache.is_cached
        while node.parent is not None and not is_cached(node.keys[0]):
            node = node.parent
        if node.parent is None:
            return 0
        low, high = 1, len(node.keys)
        while low < high:
            middle = (low + high + 1) // 2
            if is_cached(node.keys[middle - 1]):
                low = middle
            else:
                high = middle - 1
        return node.end - len(node.keys) + low

    def _move(self, session: TrackedSession, request: RequestView, tokens: int, engine: EngineView) -> None:
        """From now on the past of `session` is the first `tokens` tokens of `request`, in whole blocks."""
        keys = self._cache.block_keys(request)
        length = min(tokens // engine.block_size, len(keys))
        leaf, stale = self._tree.move(session._leaf, keys, length)
        write_facts(session, _leaf=leaf)
        self._loosen(stale)

    def _shorten(self, session: TrackedSession, length: int) -> list[Hashable]:
        """Leave the first `length` blocks of its past to `session`; return the keys that no session uses."""
        old, leaf = session._leaf, self._tree.cut(session._leaf, length)
        write_facts(session, _leaf=leaf)
        return self._tree.hand_over(old, leaf)

    def _loosen(self, keys: list[Hashable]) -> None:
        if self.collects_loose_keys and keys:
            self._loose_keys.extend(keys)

    def _take_past(self, session: TrackedSession) -> list[Hashable]:
        return self._shorten(session, 0)

    def _forget(self, session: TrackedSession) -> None:
        self._forget_name(session)
        self._loosen(self._take_past(session))

    def _forget_name(self, session: TrackedSession) -> None:
        self._names.discard(session.session_id)
        if session.is_told:
            self._told.pop(session.told_as, None)

    def _grow_cold(self, session: TrackedSession) -> None:
        """Nothing of `session` is cached: it stays known, since its next turn may still come."""
        self._cold[session.session_id] = session
        if len(self._cold) > MOST_SESSIONS:
            _, oldest = self._cold.popitem(last=False)
            self._forget_name(oldest)
            self._pasts.remove(oldest)
            self._forgotten.append(oldest)
