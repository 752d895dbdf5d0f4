"""Reports a policy that hangs: its overrun cannot be judged at its return, since it never returns.

One daemon thread watches every controller of a process. It can only report; nothing can safely stop a call
in another thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from bidkv.control import Controller

logger = logging.getLogger("bidkv")

LIMIT_S = 2.0
"""Longest call that is not reported, in seconds: far above the time budget, so that only a hang is."""

INTERVAL_S = 0.5
"""Seconds between two looks."""


class Watchdog:
    """Looks at controllers and logs each call that lasts longer than `limit_s`, once.

    Args:
        limit_s: longest call that is not reported, seconds.
        clock: the controllers' clock.
    """

    def __init__(self, *, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.perf_counter) -> None:
        self._limit_s = limit_s
        self._clock = clock
        # Weak: being watched must not keep a controller (and its engine) alive.
        self._reported: WeakKeyDictionary[Controller, float | None] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def watch(self, controller: Controller) -> None:
        """Look after `controller` as long as it lives."""
        with self._lock:
            self._reported[controller] = None

    def start(self) -> None:
        """Look every half second from a daemon thread; a second call does nothing."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bidkv-watchdog", daemon=True)
                self._thread.start()

    def look(self) -> None:
        """Look once."""
        with self._lock:
            watched = list(self._reported.items())
        for controller, reported in watched:
            started = controller.call_started_s
            if started is None or started == reported:
                continue
            lasted = self._clock() - started
            if lasted > self._limit_s:
                self._reported[controller] = started
                logger.error(
                    "bidkv: policy %r has not answered for %.1f s: the engine waits for it",
                    controller.policy_name,
                    lasted,
                )

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_S)
            self.look()


PROCESS_WATCHDOG = Watchdog()
"""The watchdog whose thread runs in a server."""
