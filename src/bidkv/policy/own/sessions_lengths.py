"""How much sessions differ in their number of turns: what decides whether old ones should go first."""

from __future__ import annotations

_KEEP = 0.998
"""Weight that one more session leaves to the older ones: about the last 500 count."""
_FEWEST_ENDED = 16
"""Sessions that must have ended before their lengths say anything."""
_ALIKE, _DIFFERENT = 0.4, 0.6
"""Squared coefficients of variation of turns up to which sessions are alike, and from which they differ."""


class TurnCounts:
    """Turns of the sessions that ended.

    Serving whole sessions in the order in which they came gives the shorter mean completion time where all
    are of about one length. Serving turn by turn gives it where lengths differ widely, since short sessions
    need not wait for long ones. So it is with single jobs: in M/G/1, order of arrival beats processor
    sharing where the squared coefficient of variation is below 1. (That of turns is lower than that of the
    time they take.)
    """

    __slots__ = ("_squares", "_turns", "_weight")

    def __init__(self) -> None:
        self._weight = self._turns = self._squares = 0.0

    def learn(self, num_turns: int) -> None:
        """A session ended after `num_turns`."""
        self._weight = self._weight * _KEEP + 1.0
        self._turns = self._turns * _KEEP + num_turns
        self._squares = self._squares * _KEEP + num_turns * num_turns

    @property
    def difference(self) -> float:
        """0 where sessions have about as many turns or few have ended, 1 where they differ widely."""
        if self._weight < _FEWEST_ENDED or not self._turns:
            return 0.0
        variation = self._squares * self._weight / (self._turns * self._turns) - 1.0
        return min(1.0, max(0.0, (variation - _ALIKE) / (_DIFFERENT - _ALIKE)))
