"""Does a server keep up? The share of recent time in which requests could not be admitted.

In a stable system the queue empties again and again; beyond its boundary it never does. Counting requests
tells too little in time: at one request a second the arrivals of a minute vary by 13 %, so a load of 105 %
cannot be told from one of 90 % by its rate. The queue sums up all that arrived and left since it was last
empty.
"""

from __future__ import annotations

import math

BACKLOG_WINDOW_S = 90.0
"""Time constant of the share, seconds. A busy period of a server at 90 % of its boundary is shorter."""
BACKLOG_SHARE = 0.93
"""Share of the window from which on the queue counts as one that never empties: after 2.7 windows without
a gap, 4 minutes."""
BACKLOG_S = 0.5
"""Seconds' worth of arrivals that must wait: a few always wait for the next step to begin."""


class BacklogWatch:
    """Exponential moving share of the time in which requests waited; O(1) an update.

    >>> watch = BacklogWatch(window_s=10.0)
    >>> for second in range(60):
    ...     watch.update(float(second), backlogged=second > 5)
    >>> watch.share > 0.99
    True
    """

    __slots__ = ("_backlogged", "_updated_s", "_window_s", "share")

    def __init__(self, window_s: float = BACKLOG_WINDOW_S) -> None:
        if not 0.0 < window_s < math.inf:
            raise ValueError("window_s must be > 0 and finite")
        self._window_s = window_s
        self._backlogged = False
        self._updated_s: float | None = None
        self.share = 0.0

    def update(self, now_s: float, *, backlogged: bool) -> None:
        """Count the time since the last update by what was seen then, and note what is seen now."""
        if self._updated_s is not None and now_s > self._updated_s:
            keep = math.exp((self._updated_s - now_s) / self._window_s)
            self.share = self.share * keep + (1.0 - keep) * self._backlogged
        self._updated_s = now_s
        self._backlogged = backlogged
