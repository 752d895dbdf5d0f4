"""A policy that decides nothing and is slow by a known amount: what a comparison must be able to find.

At every event it keeps the engine for a tenth of the time since the last one, so that the engine's work takes
10 % longer. The engine must schedule synchronously: a step that was scheduled ahead would hide it.
"""

from __future__ import annotations

import time

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

SHARE = 0.1
MOST_S = 0.03
"""Longer than this looks like a pause without work, and would come near a decision's time limit."""


class Slowed(Policy):
    """The engine's own order, 10 % slower."""

    name = "slowed"

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Keep the engine."""
        self._keep()

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Keep the engine."""
        self._keep()

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Keep the engine."""
        self._keep()

    def _keep(self) -> None:
        began_s = time.perf_counter()
        until_s = began_s + min(SHARE * (began_s - self._since_s), MOST_S)
        while time.perf_counter() < until_s:
            pass
        self._since_s = time.perf_counter()
