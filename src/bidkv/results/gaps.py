"""Times between two tokens of one answer, as a histogram: a run has millions of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

_BINS_PER_OCTAVE = 64
"""Bins between a time and its double: a percentile is at most 0.8 % off."""

_SHORTEST_S = 1e-9
"""Shorter gaps count as this one; no engine makes a token in a nanosecond."""


def find_gap_bin(gap_s: float) -> int:
    """Return the number of the bin that a gap in seconds falls into; longer gaps have larger numbers."""
    mantissa, exponent = math.frexp(max(gap_s, _SHORTEST_S))
    return exponent * _BINS_PER_OCTAVE + int((mantissa - 0.5) * (2 * _BINS_PER_OCTAVE))


class TokenGaps:
    """How often each gap between two tokens occurred (inter-token latency), and the longest one exactly.

    Attributes:
        longest_s: the longest gap in seconds; 0.0 when there was none.
    """

    __slots__ = ("_counts", "longest_s")

    def __init__(self, counts: Iterable[tuple[int, int]] = (), longest_s: float = 0.0) -> None:
        self._counts: Counter[int] = Counter(dict(counts))
        self.longest_s = longest_s

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenGaps):
            return NotImplemented
        return self.longest_s == other.longest_s and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TokenGaps({sum(self._counts.values())} gaps, longest {self.longest_s} s)"

    def add(self, gap_s: float, count: int = 1) -> None:
        """`count` tokens came `gap_s` seconds after the one before them."""
        if count:
            self._counts[find_gap_bin(gap_s)] += count
            if gap_s > self.longest_s:
                self.longest_s = gap_s

    def merge(self, other: TokenGaps) -> None:
        """Add all gaps of another histogram."""
        self._counts.update(other._counts)
        self.longest_s = max(self.longest_s, other.longest_s)

    def counts(self) -> list[tuple[int, int]]:
        """Return (bin, gaps in it), the shortest gaps first."""
        return sorted(self._counts.items())

    def percentile(self, percent: float) -> float | None:
        """Return the nearest-rank percentile in seconds, the middle of its bin; None when there was no gap.

        Args:
            percent: in (0, 100].
        """
        left = math.ceil(round(percent * sum(self._counts.values()) / 100.0, 9))
        for number, count in self.counts():
            left -= count
            if left <= 0:
                exponent, place = divmod(number, _BINS_PER_OCTAVE)
                middle = 0.5 + (place + 0.5) / (2 * _BINS_PER_OCTAVE)
                return min(math.ldexp(middle, exponent), self.longest_s)
        return None
