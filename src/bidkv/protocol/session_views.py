"""Sessions as engines, the controller and policies exchange them.

A session is a conversation: each of its requests (a *turn*) repeats everything before it and adds a little.
Between two turns no request holds the session's KV blocks; they are free, but still cached, until the engine
gives them to another request. Which session keeps them is the fourth question of
:class:`bidkv.protocol.policy.Policy`.

Three parties meet here. A client names the session of a request, or does not. An engine offers
block-level facts (:class:`SessionCache`). `bidkv.control` keeps the books and shows them to policies
(:class:`SessionTable`, :class:`SessionView`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from bidkv.protocol.requests import RequestView


class SessionView(Protocol):
    """A session as a policy sees it; the same object for the session's whole life. All members are O(1) or
    O(log blocks). Times are seconds on the engine's clock.
    """

    @property
    def session_id(self) -> str:
        """The told id, or a name made up for a session that was found by its prefix."""

    @property
    def is_told(self) -> bool:
        """Whether a client named the session; False for one found by its prefix."""

    @property
    def agent_id(self) -> str:
        """Sender of its latest request; empty when unknown."""

    @property
    def priority(self) -> int:
        """Priority of its latest request, in vLLM's sign: a lower number is more important."""

    @property
    def weight(self) -> float:
        """Weight of its latest request; 1 is ordinary."""

    @property
    def first_arrival_s(self) -> float:
        """When its first request arrived."""

    @property
    def num_turns(self) -> int:
        """Turns that have arrived so far."""

    @property
    def idle_since_s(self) -> float | None:
        """When its last turn ended; None while a turn waits or runs."""

    @property
    def gap_hint_s(self) -> float | None:
        """Seconds from the end of its last turn to the next one as the client expects them, or None."""

    @property
    def context_tokens(self) -> int:
        """Tokens of its past: the prompt and the answer of its last turn."""

    @property
    def cached_blocks(self) -> int:
        """Full blocks of its past that are believed to be cached; checked at every arrival."""

    @property
    def exclusive_blocks(self) -> int:
        """The part of `cached_blocks` that no other known session uses: what dropping it makes reusable."""

    @property
    def is_over(self) -> bool:
        """Whether its client said that no turn follows."""


class SessionTable(Protocol):
    """All known sessions of an engine, kept by the controller; read-only for policies."""

    @property
    def in_use(self) -> bool:
        """Whether any request so far belonged to a session: one was named, or a second turn was found."""

    @property
    def idle(self) -> Mapping[str, SessionView]:
        """The sessions between two turns with cached blocks, by id, the one idle for longest first."""

    @property
    def retained_blocks(self) -> int:
        """Cached blocks that a known session would use again and no request holds; shared ones count once.

        They are part of the engine's free blocks. What remains of those can be given away without loss.
        """

    @property
    def drops_parts(self) -> bool:
        """Whether the engine can give up the last blocks of an idle session alone, and keep the rest."""

    def session_for(self, request: RequestView) -> SessionView | None:
        """Return the session of a live request, None when it has none."""


class SessionCache(Protocol):
    """What an engine must offer so that the controller can keep the session accounts.

    A *key* names the content of a full block and of everything before it (vLLM's block hash): two requests
    have equal keys at an index exactly if they agree in all tokens up to the end of that block.
    """

    @property
    def reuses_parts(self) -> bool:
        """Whether :meth:`reuse_first` may be asked for the last blocks of a past alone."""

    def cached_tokens(self, request: RequestView) -> int:
        """Return how many leading tokens of a waiting request are cached now.

        As the engine would count them at admission: whole blocks, and never the last token. The cost must be
        bounded by the length of the prompt.
        """

    def block_keys(self, request: RequestView) -> Sequence[Hashable]:
        """Return the keys of the full blocks of a request's known tokens, in order; it may grow later.

        Asked at arrival and at the end of a request, when the request is still known to the engine.
        """

    def is_cached(self, key: Hashable) -> bool:
        """Return whether a block with this content is cached now; O(1)."""

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Move cached blocks to the front of the engine's free queue; return how many were moved.

        The block of the last key is the first to be reused, so that what remains of a session is always a
        prefix. A block that a request references, or that is not cached, stays where it is. Called between
        two steps or during an admission, never while the engine is part-way through an allocation.
        """
