"""The observer of a controller: it is told of every decision and its outcome, and never asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView


class Decision(NamedTuple):
    """One answer to the question which request is preempted.

    Attributes:
        policy: the policy that answered.
        candidates: the running requests it could choose from, in the engine's order.
        need_blocks: blocks still missing when it was asked.
        victim: its choice; None left the decision to the engine.
        engine_choice: the victim of the engine's own rule; None where that is unknown.
        reserve_blocks: blocks the last admission had to leave free; None when the policy keeps no reserve.
        took_s: seconds the answer took.
    """

    policy: Policy
    candidates: Sequence[RequestView]
    need_blocks: int
    victim: RequestView | None
    engine_choice: RequestView | None
    reserve_blocks: int | None
    took_s: float


class Observer(Protocol):
    """Told by a controller what happens, in order, in the engine's own thread: it must be quick.

    One that raises is switched off; the engine and the policy are not affected.
    """

    def policy_changed(self, policy: Policy, *, active: bool, reason: str) -> None:
        """From now on `policy` decides, or (not `active`) the engine alone; `reason` says why."""

    def decided(self, decision: Decision, engine: EngineView) -> None:
        """A victim was chosen, or the choice was left to the engine; no request is preempted yet."""

    def admitted(self, request: RequestView, cached_tokens: int, engine: EngineView) -> None:
        """`request` runs now; `cached_tokens` of it came from the prefix cache."""

    def preempted(
        self,
        request: RequestView,
        lost_tokens: int,
        recomputed_tokens: int,
        engine: EngineView,
        *,
        by_policy: bool,
    ) -> None:
        """`request` lost `lost_tokens` computed positions and waits again.

        `recomputed_tokens` of those computed since its last admission had been computed before.
        """

    def finished(
        self, request: RequestView, recomputed_tokens: int, engine: EngineView, *, completed: bool
    ) -> None:
        """`request` left the engine; `recomputed_tokens` as for a preemption."""

    def session_dropped(self, policy: Policy, session: SessionView, blocks: int, engine: EngineView) -> None:
        """`policy` chose the idle `session`; the last `blocks` of its past are about to be reused first."""
