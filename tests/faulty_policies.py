"""Policies that misbehave in every way a policy can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bidkv.protocol.policy import Policy


class Raises(Policy):
    """Raises when asked for a victim."""

    name = "raises"

    def select_victim(self, candidates: Sequence[Any], need_blocks: int, engine: Any) -> Any:
        raise RuntimeError("a bug in a policy")


class Garbage(Policy):
    """Answers with something that is not a request."""

    name = "garbage"

    def select_victim(self, candidates: Sequence[Any], need_blocks: int, engine: Any) -> Any:
        return "request-1"


class Sleeps(Policy):
    """Takes longer than its time budget."""

    name = "sleeps"

    def select_victim(self, candidates: Sequence[Any], need_blocks: int, engine: Any) -> Any:
        time.sleep(0.2)
        return candidates[0]


class Abstains(Policy):
    """Leaves every decision to the engine."""

    name = "abstains"

    def select_victim(self, candidates: Sequence[Any], need_blocks: int, engine: Any) -> Any:
        return None


class ShutGate(Policy):
    """Admits nobody while anything runs, and names a finished request's worth of blocks as reserve."""

    name = "shut-gate"

    def select_next(self, engine: Any) -> Any:
        return None


class RaisesOnEvents(Policy):
    """Raises when told that a request was preempted."""

    name = "raises-on-events"

    def on_preempt(self, request: Any, lost_tokens: int, engine: Any) -> None:
        raise KeyError("a bug in a policy's book-keeping")


FAULTS: dict[str, type[Policy]] = {
    str(fault.name): fault for fault in (Raises, Garbage, Sleeps, Abstains, ShutGate, RaisesOnEvents)
}


class RaisesOnDrops(Policy):
    """Raises when asked which idle session is dropped."""

    name = "raises-on-drops"

    def select_drop(self, idle: Any, engine: Any) -> Any:
        raise LookupError("a bug in a policy")


class DropsGarbage(Policy):
    """Drops what is not a session."""

    name = "drops-garbage"

    def select_drop(self, idle: Any, engine: Any) -> Any:
        return "session-1"


class DropsEverything(Policy):
    """Drops every idle session at every opportunity, which is unwise but no failure."""

    name = "drops-everything"

    def select_drop(self, idle: Any, engine: Any) -> Any:
        return next(iter(idle.values()), None)


class RaisesOnTurnEnds(Policy):
    """Raises when told that a session's turn ended."""

    name = "raises-on-turn-ends"
    reads_sessions = True

    def on_turn_end(self, session: Any, engine: Any) -> None:
        raise KeyError("a bug in a policy's book-keeping")


SESSION_FAULTS: dict[str, type[Policy]] = {
    str(fault.name): fault for fault in (RaisesOnDrops, DropsGarbage, DropsEverything, RaisesOnTurnEnds)
}
"""Those that misbehave with sessions; where no sessions are kept they fail at nothing."""
