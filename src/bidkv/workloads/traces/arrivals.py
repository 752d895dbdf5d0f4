"""Arrival times for requests that have none: Poisson, or Gamma gaps of a given burstiness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from random import Random
from typing import Literal

Arrivals = Literal["poisson", "gamma"]


def arrival_times_s(rate_rps: float, random: Random, arrivals: Arrivals, cv: float) -> Iterator[float]:
    """Yield endless arrival times, in seconds to the microsecond, starting with 0.

    Args:
        rate_rps: mean arrivals a second; infinity lets all arrive at 0.
        random: where the gaps come from.
        arrivals: "poisson" (exponential gaps) or "gamma" (a renewal process with Gamma gaps).
        cv: coefficient of variation of the gaps; 1 is Poisson, above 1 bursty, below 1 regular.

    Raises:
        ValueError: an unknown kind, a rate or cv out of range, or a Poisson process of cv other than 1.
    """
    if arrivals not in ("poisson", "gamma"):
        raise ValueError(f"arrivals must be 'poisson' or 'gamma', not {arrivals!r}")
    check_rate(rate_rps)
    if not 0.01 <= cv <= 100:
        raise ValueError(f"cv must be from 0.01 to 100, not {cv!r}")
    if arrivals == "poisson" and cv != 1.0:
        raise ValueError(f"Poisson arrivals have a cv of 1, not {cv!r}; choose arrivals='gamma'")
    return _times_s(rate_rps, random, arrivals, cv)


def check_rate(rate_rps: float) -> None:
    """Raise ValueError unless `rate_rps` is a rate requests can arrive at."""
    if not (1e-6 <= rate_rps <= 1e6 or rate_rps == math.inf):
        expected = "from 0.000001 to 1000000 requests a second, or infinity"
        raise ValueError(f"rate_rps must be {expected}, not {rate_rps!r}")


def _times_s(rate_rps: float, random: Random, arrivals: Arrivals, cv: float) -> Iterator[float]:
    if rate_rps == math.inf:
        yield from repeat(0.0)
    shape, scale = 1.0 / cv**2, cv**2 / rate_rps
    now_s = 0.0
    while True:
        # Rounded so that a frozen workload stays small; the sum itself is not, so no drift.
        yield round(now_s, 6)
        now_s += random.expovariate(rate_rps) if arrivals == "poisson" else random.gammavariate(shape, scale)
