"""Watches a running engine for limit cycles, from the controller's own counters."""

from __future__ import annotations

from bidkv.control import ControlCounters
from bidkv.stability import LimitCycleDetector


class CycleWatch:
    """Feeds a limit-cycle detector with what happened between two looks.

    Args:
        counters: the controller's.
        most_running: requests that can run at once.

    Attributes:
        cycling: whether waves of preemption and recompute were seen at the last look.
    """

    def __init__(self, counters: ControlCounters, most_running: int) -> None:
        self.cycling = False
        self._counters = counters
        self._most_running = most_running
        self._detector = LimitCycleDetector()
        self._scheduled = self._recomputed = 0

    def look(self, now_s: float, running: int) -> None:
        """Take in the engine's state at `now_s`; call it a few times a second."""
        scheduled, recomputed = self._counters.scheduled_tokens, self._counters.recomputed_tokens
        self._detector.update(
            now_s,
            min(1.0, running / self._most_running),
            scheduled - self._scheduled,
            recomputed - self._recomputed,
        )
        self._scheduled, self._recomputed = scheduled, recomputed
        self.cycling = self._detector.get().is_cycling
