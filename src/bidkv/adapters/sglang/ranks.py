"""The time and the operator's commands, the same on every tensor-parallel rank.

Each rank of a replica runs the same scheduler on the same state and must decide alike, or their forward
passes no longer match. Clocks and files differ, so one rank's word counts for all: it travels by a
collective at points that all ranks pass in the same state (an arrival, and every so many batches). Between
two of them time goes on by the mean length of a step, which is the same everywhere too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Word = tuple[float, str | None]
"""A time in seconds and a command, or None."""

SYNC_EVERY_STEPS = 32
"""Batches between two collectives: under a second, and far below a thousandth of the steps' cost."""


def poll_nothing() -> str | None:
    """No operator commands anything."""
    return None


class LocalWord:
    """One rank alone: its own clock and its own file."""

    def __init__(
        self, poll: Callable[[], str | None] = poll_nothing, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now_s = clock
        self._poll = poll

    def arrived(self) -> None:
        """A request arrived."""

    def ran(self) -> None:
        """A batch was scheduled."""

    def command(self) -> str | None:
        """Return a command that was not returned before, or None."""
        return self._poll()


class SharedWord:
    """Several ranks: the first one's clock and file.

    Args:
        broadcast: a collective over all ranks; takes this rank's word and returns the first rank's.
        leads: whether this rank is the first one.
        poll: returns a new command of the operator, or None.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        broadcast: Callable[[Word], Word],
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
        self._heard_s, _ = broadcast((clock(), None))

    def now_s(self) -> float:
        """Seconds on the first rank's clock, as well as it is known without asking."""
        return self._heard_s + self._steps * self._step_s

    def arrived(self) -> None:
        """A request arrived: its time should be right."""
        self._hear()

    def ran(self) -> None:
        """A batch was scheduled."""
        self._steps += 1
        if self._steps >= SYNC_EVERY_STEPS:
            self._hear()

    def command(self) -> str | None:
        """Return a command that was not returned before, or None."""
        command, self._command = self._command, None
        return command

    def _hear(self) -> None:
        promised_s = self.now_s()
        now_s, command = self._broadcast((self._clock(), self._poll() if self._leads else None))
        if self._steps:
            self._step_s = max(0.0, now_s - self._heard_s) / self._steps
        self._heard_s = max(now_s, promised_s)  # time never runs backwards
        self._steps = 0
        self._command = command or self._command
