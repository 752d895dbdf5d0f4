"""Policies that misbehave in every way a policy can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable, SessionView


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


class Writes(Policy):
    """Writes to every member of everything that it is shown, and abstains.

    Args:
        writes: False: it looks at everything and writes nothing.

    Attributes:
        tried: the members it tried to write to, by protocol and name.
        written: those that took it.
    """

    name = "writes"

    def __init__(self, *, writes: bool = True) -> None:
        self.writes = writes
        self.tried: set[str] = set()
        self.written: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Writes:
        return self

    def _write(self, view: Any, protocol: type[Any]) -> None:
        for name in members(protocol):
            if not self.writes:
                getattr(view, name)
                continue
            self.tried.add(f"{protocol.__name__}.{name}")
            try:
                setattr(view, name, 7)
            except AttributeError:
                continue
            self.written.add(f"{protocol.__name__}.{name}")

    def _look(self, engine: Any, *requests: Any) -> None:
        self._write(engine, EngineView)
        for request in (*requests, *engine.running, *engine.waiting()):
            self._write(request, RequestView)
        with suppress(AttributeError, TypeError):  # where it is a copy there is no harm in it
            if self.writes:
                engine.running.clear()
        with suppress(AttributeError, TypeError, IndexError):
            if self.writes:
                del engine.running[0]
        if engine.sessions is not None:
            self._write(engine.sessions, SessionTable)
            for session in engine.sessions.idle.values():
                self._write(session, SessionView)

    def select_victim(self, candidates: Sequence[Any], need_blocks: int, engine: Any) -> Any:
        self._look(engine, *candidates)

    def select_drop(self, idle: Any, engine: Any) -> Any:
        self._look(engine)

    def on_arrival(self, request: Any, engine: Any) -> None:
        self._look(engine, request)

    def on_finish(self, request: Any, engine: Any, *, completed: bool) -> None:
        self._look(engine, request)


def members(protocol: type[Any]) -> list[str]:
    """What a view of this kind has that is read and not called."""
    return [name for name, member in vars(protocol).items() if isinstance(member, property)]


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
