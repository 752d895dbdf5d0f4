"""Laws of the time between an answer and the next turn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

_NORMAL = NormalDist()
_LEAST_U = 1e-12
"""Keeps a uniform draw away from 0 and 1, where the normal quantile is infinite."""


@dataclass(frozen=True, slots=True)
class GapLaw:
    """Gaps whose logarithm is normal, cut off at a longest gap.

    Attributes:
        median_s: median gap in seconds, above 0.
        sigma: standard deviation of the natural logarithm, at least 0.
        max_s: longest gap in seconds; longer draws count as this long.
    """

    median_s: float
    sigma: float
    max_s: float

    def __post_init__(self) -> None:
        if not (0 < self.median_s <= self.max_s <= 1e7 and 0 <= self.sigma <= 5):
            raise ValueError(
                f"gaps need 0 < median_s <= max_s <= 1e7 and 0 <= sigma <= 5, not {self.median_s!r}, "
                f"{self.max_s!r} and {self.sigma!r}"
            )

    def draw(self, random: Random) -> float:
        """Return a gap in seconds, to the millisecond so that every file format holds it exactly.

        >>> GapLaw(median_s=2.0, sigma=1.0, max_s=60.0).draw(Random(1))
        0.663
        """
        u = min(max(random.random(), _LEAST_U), 1.0 - _LEAST_U)
        gap_s = self.median_s * math.exp(self.sigma * _NORMAL.inv_cdf(u))
        return round(min(gap_s, self.max_s), 3)
