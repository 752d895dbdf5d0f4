"""Stable, unstable or uncertain: a rate of arrivals held against a service rate, both with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bidkv.stability.estimators import Estimate
from bidkv.stability.service_rate import ServiceRate


class LoadVerdict(StrEnum):
    """Whether queues stay bounded."""

    STABLE = "stable"
    UNSTABLE = "unstable"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Assessment:
    """A load held against a replica.

    Attributes:
        verdict: stable or unstable only where the two intervals do not meet.
        utilization: arrivals / sustainable rate of the service-rate model.
        utilization_low: the least it can be within both intervals.
        utilization_high: the most it can be.
        plain_utilization: arrivals / rate of the published formula, for comparison.
        margin_pct: distance of the arrivals from the boundary in percent of it, negative beyond it.
    """

    verdict: LoadVerdict
    utilization: float
    utilization_low: float
    utilization_high: float
    plain_utilization: float
    margin_pct: float


def assess(arrivals_rps: float | Estimate, service: ServiceRate) -> Assessment:
    """Judge a load.

    Args:
        arrivals_rps: requests per second, exact or an estimate (its 95 % interval is used).
        service: what the replica sustains.

    Raises:
        ValueError: a rate that is negative or not finite.
    """
    estimate = (
        arrivals_rps if isinstance(arrivals_rps, Estimate) else Estimate(arrivals_rps, 0.0, math.inf, True)
    )
    if not 0.0 <= estimate.value < math.inf:
        raise ValueError("arrivals_rps must be >= 0 and finite")
    low, high = estimate.interval()
    utilization_low, utilization_high = max(low, 0.0) / service.high_rps, high / service.low_rps
    verdict = LoadVerdict.UNCERTAIN
    if estimate.enough and utilization_high < 1.0:
        verdict = LoadVerdict.STABLE
    elif estimate.enough and utilization_low > 1.0:
        verdict = LoadVerdict.UNSTABLE
    return Assessment(
        verdict=verdict,
        utilization=estimate.value / service.sustainable_rps,
        utilization_low=utilization_low,
        utilization_high=utilization_high,
        plain_utilization=estimate.value / service.plain_rps,
        margin_pct=100.0 * (1.0 - estimate.value / service.sustainable_rps),
    )
