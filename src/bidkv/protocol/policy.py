"""The policy protocol: four questions about the KV cache, asked in the same way by every engine.

1. *Which request is preempted* when a step needs more blocks than are free: :meth:`Policy.select_victim`.
2. *Which request enters next*: :meth:`Policy.select_next`.
3. *How many blocks must stay free* after an admission: :meth:`Policy.reserve_blocks`.
4. *Which session loses its KV* between two turns: :meth:`Policy.select_drop`.

A policy overrides only the questions it wants to answer; the engine keeps its own rule for the others,
and :class:`bidkv.control.Controller` does not even build the arguments for a question left unanswered.

Events tell a policy what happened. Between two events (arrival, admission, preemption, finish) the
answers to questions 2 and 3 must not change: engines ask them again only after the next event, which
keeps the cost of a step O(1) and lets the simulator skip uneventful steps without changing any result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol

from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable, SessionView

Figure = Literal["freed_blocks", "num_computed_tokens", "num_output_tokens"]
"""What :meth:`EngineView.column` reads; `freed_blocks` is what preempting the request would free."""


class NotClairvoyantError(RuntimeError):
    """A clairvoyant policy runs in an engine that cannot know true output lengths."""


class EngineView(Protocol):
    """The state of a running engine as a policy sees it; every member is O(1) unless it says otherwise.

    Every engine refuses a write to it with an AttributeError.
    """

    @property
    def sessions(self) -> SessionTable | None:
        """The sessions of the engine's requests; None where the engine does not support them."""

    @property
    def now_s(self) -> float:
        """Seconds on the engine's clock (monotonic)."""

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    @property
    def num_blocks(self) -> int:
        """Usable KV blocks (the engine's reserved null block is not counted)."""

    @property
    def blocks_per_growth(self) -> int:
        """Most blocks that up to `block_size` new tokens of a request take: one in each group of KV cache."""

    @property
    def lost_token_price(self) -> float:
        """Cost of restoring one token that a preemption loses, in computed tokens; at most 1."""

    @property
    def lost_past_price(self) -> float:
        """Cost of one token of a session's past once it is evicted, in computed tokens; at most 1.

        Below 1 where something besides the prefix cache, such as host memory, restores it.
        """

    @property
    def free_blocks(self) -> int:
        """KV blocks that no request holds now, cached ones included."""

    @property
    def max_num_seqs(self) -> int:
        """Most requests the engine runs at once."""

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of one step."""

    @property
    def prefix_caching(self) -> bool:
        """Whether the engine shares KV blocks between requests."""

    @property
    def running(self) -> Sequence[RequestView]:
        """The running requests in the engine's own order."""

    @property
    def num_running(self) -> int:
        """Number of running requests."""

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait to enter."""

    @property
    def num_prefilling(self) -> int:
        """Running requests with more than one token still to compute; may be rounded up."""

    @property
    def num_steps(self) -> int:
        """Steps run since the engine started; with :attr:`now_s` it gives a mean step time."""

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed since the engine started, recomputed ones included."""

    @property
    def most_preemptions(self) -> int | None:
        """A number of preemptions that no live request exceeds; None where the engine does not keep one."""

    def waiting(self) -> Sequence[RequestView]:
        """The waiting requests in the engine's own order; O(waiting)."""

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` waits to enter."""

    def cached_tokens(self, request: RequestView) -> int:
        """Leading tokens of a waiting request that are cached now; O(prompt blocks), 0 without caching."""

    def preemptable(self, running: Sequence[RequestView]) -> Sequence[RequestView]:
        """Those of the running requests whose blocks the engine can take in the coming step; O(running)."""

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting `request` would free, those that others share not counted.

        O(blocks held) with prefix caching.
        """

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without the requests `excluded`; O(running)."""

    def column(self, requests: Sequence[RequestView], figure: Figure) -> Sequence[int]:
        """One figure of each of the running `requests`, in their order.

        For policies that compare all candidates: among 2,000 of them, reading figures one by one takes longer
        than comparing them, so an engine may read them together.
        """

    def true_output_tokens(self, request: RequestView) -> int:
        """Tokens that `request` will have generated in the end; only the simulated engines answer.

        Raises:
            NotClairvoyantError: the engine is a real one.
        """


class Policy:
    """Base of every policy: all questions unanswered, all events ignored.

    A researcher's policy overrides what it needs::

        class LeastComputedFirst(Policy):
            name = "lcf"

            def select_victim(self, candidates, need_blocks, engine):
                return min(reversed(candidates), key=lambda r: r.num_computed_tokens)

    Attributes:
        name: what reports and metrics call it.
        preemption_cap: how often one request may become this policy's victim; None is bounded only by
            progress (the contract's strategies and published rules run as published).
        clairvoyant: whether it reads true output lengths, which only the simulator knows.
        reads_sessions: whether it reads `engine.sessions` without dropping idle ones; the session accounts
            are kept in full only for policies that use them.
        victim_rule: what distinguishes a victim from the other candidates, in words ("the fewest computed
            tokens"), for explanations.
    """

    name: str = "policy"
    preemption_cap: int | None = None
    clairvoyant: ClassVar[bool] = False
    reads_sessions: bool = False
    victim_rule: str = ""

    # --- questions -------------------------------------------------------------------------------
    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Choose the request that is preempted so that the coming step fits.

        Args:
            candidates: the running requests that may be chosen, in the engine's order, at least one.
            need_blocks: blocks still missing, at least 1.
            engine: the engine's state.

        Returns:
            One of `candidates`, or None to leave this decision to the engine's own rule. Ties should
            go to the later index, as the engine's own rule would.
        """
        raise NotImplementedError

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Choose which waiting request enters next.

        Returns:
            One of the waiting requests, or None to admit none until the next event.
        """
        raise NotImplementedError

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return how many blocks an admission must leave free while something runs.

        Returns:
            A whole number from 0 to :attr:`EngineView.num_blocks`.
        """
        raise NotImplementedError

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Choose the idle session whose cached blocks are reused first, or None to drop none now.

        The engine moves the blocks that no other session uses to the front of its free queue, the last one
        first; the session's next turn computes them again. Asked again after every drop until the answer is
        None: before an admission is chosen, and before a step whose growth could reach the retained blocks.
        Without memory pressure it must answer None in O(1).

        Args:
            idle: the sessions that may be chosen (`engine.sessions.idle`) by their ids, never empty.
            engine: the engine's state.

        Returns:
            One of the values of `idle`, or None.
        """
        raise NotImplementedError

    def drop_blocks(self, session: SessionView, engine: EngineView) -> int | None:
        """Return how many blocks of the session just chosen are reused first, the last ones of its past.

        Asked after every answer of :meth:`select_drop` where the engine can give up a part of a past
        (`engine.sessions.drops_parts`). The session stays idle with the rest.

        Returns:
            At least 1; None, as by default, or at least `session.exclusive_blocks` for all of them.
        """
        return None

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Return the figures behind the drop of `session`, the deciding one first, for decision logs."""
        return {}

    def read_figures(self, engine: EngineView) -> dict[str, float]:
        """Return the policy's own figures for an operator, by name; asked a few times a second.

        `price_per_s` and `index_per_s` are exported: what holding memory costs and what the idle session that
        would be dropped next is worth, both in returns per second. A failure here ends the figures alone. Of
        several ranks only one asks, so the answer must not change what the policy decides.
        """
        return {}

    def wait_reason(self, request: RequestView, engine: EngineView) -> str:
        """Return in a few words why a waiting request has not entered, for decision logs; "" if unknown."""
        return ""

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the figures that :meth:`select_victim` compares for one candidate, the deciding one first.

        Asked only while a decision log is written, after the choice. Figures that :class:`RequestView` has
        need not be repeated.
        """
        return {}

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """`request` joined the waiting queue for the first time."""

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """`request` left the waiting queue and runs now."""

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """`request` was preempted; `lost_tokens` computed positions must be computed again. It waits."""

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """`request` left the engine: completed, or aborted (from running or from waiting)."""

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """A turn of `session` ended and its blocks are idle; told after :meth:`on_finish`."""

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """`session` is over: its client said so, or none of its past is cached any more."""

    # --- which questions are answered ------------------------------------------------------------
    @property
    def chooses_victims(self) -> bool:
        """Whether :meth:`select_victim` is answered."""
        return type(self).select_victim is not Policy.select_victim

    @property
    def chooses_next(self) -> bool:
        """Whether :meth:`select_next` is answered."""
        return type(self).select_next is not Policy.select_next

    @property
    def keeps_reserve(self) -> bool:
        """Whether :meth:`reserve_blocks` is answered."""
        return type(self).reserve_blocks is not Policy.reserve_blocks

    @property
    def drops_idle(self) -> bool:
        """Whether :meth:`select_drop` is answered."""
        return type(self).select_drop is not Policy.select_drop

    @property
    def drops_parts(self) -> bool:
        """Whether :meth:`drop_blocks` is answered."""
        return type(self).drop_blocks is not Policy.drop_blocks

    @property
    def needs_sessions(self) -> bool:
        """Whether the session accounts must be kept for it."""
        return self.drops_idle or self.reads_sessions
