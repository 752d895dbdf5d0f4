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
    """Answers with something that is no request."""

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
