"""Quantiles of a stream of numbers in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

_RATIO = math.log(1.01)
"""Logarithm of the ratio of neighboring buckets: quantiles are within 0.5 % of a value of the stream."""


class Spread:
    """Counts numbers of at least 0 in buckets of equal ratio; mean, least and largest are exact."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.largest = 0.0
        self._log_total = 0.0
        self._log_square_total = 0.0
        self._zeros = 0
        self._are_whole = True
        self._buckets: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count a number."""
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.largest = max(self.largest, value)
        if value <= 0.0:
            self._zeros += 1
            return
        self._are_whole = self._are_whole and value == int(value)
        log = math.log(value)
        self._log_total += log
        self._log_square_total += log * log
        self._buckets[math.floor(log / _RATIO)] += 1

    @property
    def mean(self) -> float:
        """Mean of all numbers; 0 of none."""
        return self.total / self.count if self.count else 0.0

    @property
    def positive(self) -> int:
        """How many numbers are above 0."""
        return self.count - self._zeros

    @property
    def log_sigma(self) -> float:
        """Standard deviation of the natural logarithms of the numbers above 0; 0 of fewer than two."""
        if self.positive < 2:
            return 0.0
        mean = self._log_total / self.positive
        return math.sqrt(max(self._log_square_total / self.positive - mean * mean, 0.0))

    @property
    def log_median(self) -> float:
        """Median of the lognormal law with the logarithms' mean; 0 where no number is above 0."""
        return math.exp(self._log_total / self.positive) if self.positive else 0.0

    def quantile(self, share: float) -> float:
        """Return the number below which `share` of all lie, to half a percent; 0 of none."""
        rank = share * (self.count - 1)
        passed = self._zeros
        if not self.count or rank < passed:
            return 0.0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            if rank < passed:
                middle = math.exp((bucket + 0.5) * _RATIO)
                if self._are_whole:
                    middle = float(round(middle))
                return min(max(middle, self.least), self.largest)
        return self.largest

    def distance_to_lognormal(self) -> float:
        """Return the Kolmogorov-Smirnov distance of the numbers above 0 to their lognormal law."""
        sigma = self.log_sigma
        if not sigma:
            return 0.0
        law = NormalDist(self._log_total / self.positive, sigma)
        passed, most = 0, 0.0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            most = max(most, abs(law.cdf((bucket + 1) * _RATIO) - passed / self.positive))
        return most

    def as_dict(self) -> dict[str, float]:
        """Mean, quantiles and extremes as JSON data."""
        return {
            "mean": self.mean,
            "p10": self.quantile(0.1),
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": self.largest,
        }
