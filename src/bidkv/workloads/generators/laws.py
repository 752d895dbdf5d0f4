"""Laws that token counts are drawn from, each by inversion: one uniform number, one count.

Inversion keeps workloads comparable: with the same seed, changing a bound moves counts a little instead of
shuffling every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Counts whose logarithm is normal, conditioned (not clamped) to lie within bounds.

    Attributes:
        median: in tokens, before bounds apply.
        sigma: standard deviation of the natural logarithm.
        low: least tokens.
    """

    median: float
    sigma: float
    low: int = 1

    def __post_init__(self) -> None:
        if not (0.1 <= self.median <= 1e8 and 0.01 <= self.sigma <= 5 and self.low >= 1):
            raise ValueError(f"a lognormal needs 0.1 <= median <= 1e8, 0.01 <= sigma <= 5, low >= 1: {self}")

    def draw(self, random: Random, high: int) -> int:
        """Return a count of tokens from `low` to `high`; `low` where `high` is not above it.

        >>> Lognormal(median=100, sigma=1.0).draw(Random(1), high=4096)
        33
        """
        if high <= self.low:
            return self.low
        below, above = self._cdf(self.low - 0.5), self._cdf(high + 0.5)
        u = below + (above - below) * random.random()
        # Far in a tail the bounds round to one probability and inversion has no answer: stay at the bound.
        if not 0.0 < u < 1.0:
            return self.low if u <= 0.0 else high
        count = round(self.median * math.exp(self.sigma * _NORMAL.inv_cdf(u)))
        return min(max(count, self.low), high)

    def _cdf(self, tokens: float) -> float:
        return _NORMAL.cdf(math.log(tokens / self.median) / self.sigma)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Counts by a table of their quantiles.

    Attributes:
        table: quantiles at equal steps of probability from 0 to 1, two at least; linear in between.
    """

    table: Sequence[int]

    def draw(self, random: Random) -> int:
        """Return a count from the first to the last entry of the table.

        >>> Quantiles((10, 20, 100)).draw(Random(1))
        13
        """
        place = random.random() * (len(self.table) - 1)
        index = int(place)
        low, high = self.table[index], self.table[index + 1]
        return round(low + (high - low) * (place - index))
