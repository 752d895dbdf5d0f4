"""Streaming estimators: O(1) time and memory per event, forgetting, with their own uncertainty.

Every estimator has `update(...)` and `get(...)`; `get` returns an :class:`Estimate`, which says itself
whether enough was seen. Time is whatever clock the caller's timestamps come from, in seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DEFAULT_MIN_SAMPLES = 10
_INFINITY = math.inf
# Clocks tick in nanoseconds at best: what lies closer is one instant.
_SAME_INSTANT_S = 1e-9


class Estimate(NamedTuple):
    """One estimated number.

    Attributes:
        value: the estimate, NaN while nothing can be said.
        stderr: its standard error, infinite while nothing can be said.
        samples: effective number of samples behind it (forgotten ones count less than 1).
        enough: whether there are enough samples to act on it.
    """

    value: float
    stderr: float
    samples: float
    enough: bool

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Return `value` minus and plus `z` standard errors (1.96: about 95 %)."""
        return self.value - z * self.stderr, self.value + z * self.stderr


NOTHING = Estimate(math.nan, math.inf, 0.0, False)


def _check_window(window_s: float) -> float:
    if not 0.0 < window_s < _INFINITY:
        raise ValueError("window_s must be > 0 and finite")
    return window_s


class ArrivalRate:
    """Arrivals per second: an exponential moving average over `window_s`, right from the second arrival.

    Each gap dt contributes the rate 1/dt with weight alpha = 1 - exp(-dt/window); the sum is divided
    by the weight seen so far, 1 - exp(-elapsed/window), so the start is not pulled to zero. The first
    instant only starts the clock: counting it would be n events in n - 1 gaps. Events at one instant
    all count; late ones (older than the newest) count with the weight of their age. Silence is a gap
    without events, so the rate decays in it.

    With k gaps in view whose squared coefficient of variation is c2, the relative variance of the
    rate is c2/k, and one over a mean gap is c2/k too high (Jensen); the value is corrected for it.

    Args:
        window_s: time constant in seconds.
        min_samples: arrivals after which the estimate calls itself enough.

    >>> rate = ArrivalRate(window_s=60.0)
    >>> for i in range(10):
    ...     rate.update(0.2 * i)
    >>> round(rate.get().value, 6)
    5.0
    >>> rate.get(now_s=302.0).value < 0.05 * 5.0
    True
    """

    __slots__ = (
        "_at_start",
        "_density",
        "_gap_squares",
        "_gap_weight",
        "_gaps",
        "_latest_s",
        "_per_event",
        "_start_s",
        "_window_s",
        "count",
        "min_samples",
    )

    def __init__(self, window_s: float, min_samples: int = DEFAULT_MIN_SAMPLES) -> None:
        self._window_s = _check_window(window_s)
        self.min_samples = min_samples
        self.count = 0
        self._start_s = self._latest_s = 0.0
        self._at_start = 0
        self._density = self._per_event = 0.0
        self._gaps = self._gap_squares = self._gap_weight = 0.0

    def update(self, at_s: float) -> None:
        """Count one arrival at `at_s` seconds.

        Raises:
            ValueError: `at_s` is not finite.
        """
        gap = at_s - self._latest_s
        if self.count and _SAME_INSTANT_S < gap < _INFINITY:
            # expm1 keeps gaps far below the float resolution of 1 - exp(-x).
            alpha = -math.expm1(-gap / self._window_s)
            keep = 1.0 - alpha
            self._per_event = per_event = alpha / gap
            self._density = self._density * keep + per_event
            self._gap_weight = self._gap_weight * keep + 1.0
            self._gaps = self._gaps * keep + gap
            self._gap_squares = self._gap_squares * keep + gap * gap
            self._latest_s = at_s
        else:
            self._update_unusual(at_s, gap)
        self.count += 1

    def _update_unusual(self, at_s: float, gap: float) -> None:
        """The first arrival, one at the same instant as the newest, or a late one."""
        if not -_INFINITY < at_s < _INFINITY:
            raise ValueError("at_s must be finite")
        if not self.count:
            self._start_s = self._latest_s = at_s
            self._at_start = 1
        elif abs(at_s - self._start_s) <= _SAME_INSTANT_S:
            self._at_start += 1
        elif gap >= 0.0:
            self._density += self._per_event
        elif at_s > self._start_s:
            self._density += math.exp(gap / self._window_s) / self._window_s
        else:
            # Older than everything: the former first instant becomes a counted one.
            age = self._latest_s - self._start_s
            self._per_event = self._per_event or 1.0 / self._window_s
            self._density += self._at_start * math.exp(-age / self._window_s) / self._window_s
            self._start_s, self._at_start = at_s, 1

    def get(self, now_s: float | None = None) -> Estimate:
        """Return the rate as of `now_s` (the newest arrival when None or earlier than it)."""
        now = self._latest_s if now_s is None else max(now_s, self._latest_s)
        elapsed = now - self._start_s
        if elapsed <= _SAME_INSTANT_S:
            return NOTHING
        window = self._window_s
        seen = -math.expm1(-elapsed / window)
        rate = self._density * math.exp((self._latest_s - now) / window) / seen
        # Gaps that a kernel of this width averages over: 2W/coth(T/2W) seconds of them.
        gaps_per_s = self._gap_weight / self._gaps if self._gaps > 0.0 else 1.0 / elapsed
        gaps = gaps_per_s * 2.0 * seen * window / (2.0 - seen)
        c2 = max(self._gap_weight * self._gap_squares / self._gaps**2 - 1.0, 0.0) if self._gaps > 0.0 else 1.0
        # A few gaps cannot prove regular arrivals: the error leans on Poisson's c2 = 1 until many are in.
        cautious = (c2 * gaps + DEFAULT_MIN_SAMPLES) / (gaps + DEFAULT_MIN_SAMPLES)
        value = rate / (1.0 + c2 / gaps)
        counted = self.count - self._at_start
        return Estimate(value, value * math.sqrt(cautious / gaps), gaps, counted + 1 >= self.min_samples)


class ForgettingMoments:
    """Mean and variance of a stream, older values forgotten exponentially with their age.

    Welford's update (1962) with weights: a value of age t weighs exp(-t/window). Nothing is subtracted
    from large sums, so it stays accurate for values of any size.

    Args:
        window_s: time constant in seconds; infinite means that nothing is forgotten.
        min_samples: effective samples after which the estimate calls itself enough.

    >>> moments = ForgettingMoments(window_s=60.0)
    >>> for i in range(40):
    ...     moments.update(10.0, at_s=float(i))
    >>> for i in range(40):
    ...     moments.update(2.0, at_s=1000.0 + i)
    >>> round(moments.get().value, 5)
    2.0
    """

    __slots__ = ("_latest_s", "_mean", "_scatter", "_squares", "_weight", "_window_s", "count", "min_samples")

    def __init__(self, window_s: float, min_samples: int = DEFAULT_MIN_SAMPLES) -> None:
        self._window_s = _INFINITY if window_s == _INFINITY else _check_window(window_s)
        self.min_samples = min_samples
        self.count = 0
        self._latest_s = 0.0
        self._mean = self._scatter = self._weight = self._squares = 0.0

    def update(self, value: float, at_s: float) -> None:
        """Take in `value`, observed at `at_s` seconds; late values count with the weight of their age.

        Raises:
            ValueError: `value` or `at_s` is not finite.
        """
        age = self._latest_s - at_s
        if not (-_INFINITY < value < _INFINITY and -_INFINITY < age < _INFINITY):
            raise ValueError("value and at_s must be finite")
        mean = self._mean
        if age > 0.0 and self.count:
            weight = math.exp(-age / self._window_s)
            self._weight = total = self._weight + weight
            self._squares += weight * weight
            self._mean = moved = mean + (value - mean) * weight / total
            self._scatter += weight * (value - mean) * (value - moved)
        else:
            keep = math.exp(age / self._window_s) if self.count else 0.0
            self._weight = total = self._weight * keep + 1.0
            self._squares = self._squares * keep * keep + 1.0
            self._mean = moved = mean + (value - mean) / total
            self._scatter = self._scatter * keep + (value - mean) * (value - moved)
            self._latest_s = at_s
        self.count += 1

    @property
    def variance(self) -> float:
        """Unbiased variance of the remembered values; NaN with fewer than two."""
        if not self.count:
            return math.nan
        freedom = self._weight - self._squares / self._weight
        return self._scatter / freedom if freedom > 1e-12 else math.nan

    def get(self) -> Estimate:
        """Return the mean with its standard error."""
        if not self.count:
            return NOTHING
        samples = self._weight * self._weight / self._squares
        variance = self.variance
        stderr = math.inf if math.isnan(variance) else math.sqrt(max(variance, 0.0) / samples)
        return Estimate(self._mean, stderr, samples, samples >= self.min_samples)
