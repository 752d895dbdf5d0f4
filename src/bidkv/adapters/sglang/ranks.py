"""The time and the operator's commands, the same on every tensor-parallel rank.

Each rank of a replica runs the same scheduler on the same state and must decide alike, or their forward
passes no longer match. Clocks and files differ between ranks, so the first rank's count for all of them. They
are sent by a collective at points that all ranks pass in the same state: an arrival, and every
:data:`SYNC_EVERY_STEPS` batches. Between two collectives time advances by the mean length of a step, which is
the same on every rank too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Message = tuple[float, str | None]
"""A time in seconds and an operator's command, or None."""

SYNC_EVERY_STEPS = 32
"""Batches between two collectives: a command waits under a second, and a collective costs less than a
thousandth of the batches' time."""


def poll_nothing() -> str | None:
    """Report no command: there is no control file."""
    return None


class SyncedClock:
    """The clock and the control file of a rank that is alone, and so always in step."""

    def __init__(
        self, poll: Callable[[], str | None] = poll_nothing, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now_s = clock
        self._poll = poll

    def arrived(self) -> None:
        """A request arrived."""

    def ran(self) -> None:
        """A batch was scheduled."""

    def take_command(self) -> str | None:
        """Return a command that was not returned before, or None."""
        return self._poll()


class BroadcastClock:
    """The first rank's clock and control file, for several ranks.

    Args:
        broadcast: a collective over all ranks; takes this rank's message and returns the first rank's.
        leads: whether this rank is the first one.
        poll: returns a new command of the operator, or None.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        broadcast: Callable[[Message], Message],
        *,
        leads: bool,
        poll: Callable[[], str | None] = poll_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broadcast = broadcast
        self._leads = leads
        self._poll = poll
        self._clock = clock
        self._steps = 0
        self._step_s = 0.0
        self._command: str | None = None
        self._synced_s, _ = broadcast((clock(), None))

    def now_s(self) -> float:
        """Seconds on the first rank's clock, estimated since the last collective."""
        return self._synced_s + self._steps * self._step_s

    def arrived(self) -> None:
        """A request arrived: its arrival time should be exact."""
        self._sync()

    def ran(self) -> None:
        """A batch was scheduled."""
        self._steps += 1
        if self._steps >= SYNC_EVERY_STEPS:
            self._sync()

    def take_command(self) -> str | None:
        """Return a command that was not returned before, or None."""
        command, self._command = self._command, None
        return command

    def _sync(self) -> None:
        estimated_s = self.now_s()
        now_s, command = self._broadcast((self._clock(), self._poll() if self._leads else None))
        if self._steps:
            self._step_s = max(0.0, now_s - self._synced_s) / self._steps
        self._synced_s = max(now_s, estimated_s)  # time never runs backwards
        self._steps = 0
        self._command = command or self._command
