"""Stable, unstable or uncertain: a rate of arrivals held against a service rate, both with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bidkv.stability.estimators import Estimate
from bidkv.stability.service_rate import ServiceRate


class Verdict(StrEnum):
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

    verdict: Verdict
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
    verdict = Verdict.UNCERTAIN
    if estimate.enough and utilization_high < 1.0:
        verdict = Verdict.STABLE
    elif estimate.enough and utilization_low > 1.0:
        verdict = Verdict.UNSTABLE
    return Assessment(
        verdict=verdict,
        utilization=estimate.value / service.sustainable_rps,
        utilization_low=utilization_low,
        utilization_high=utilization_high,
        plain_utilization=estimate.value / service.plain_rps,
        margin_pct=100.0 * (1.0 - estimate.value / service.sustainable_rps),
    )


def replicas_needed(arrivals_rps: float, service: ServiceRate, target_utilization: float = 0.8) -> int:
    """Replicas that serve `arrivals_rps` at `target_utilization`: ceil(lambda / (rho * mu)), at least 1.

    Raises:
        ValueError: a negative rate, or a target outside (0, 1].
    """
    if not 0.0 <= arrivals_rps < math.inf:
        raise ValueError("arrivals_rps must be >= 0 and finite")
    if not 0.0 < target_utilization <= 1.0:
        raise ValueError("target_utilization must be in (0, 1]")
    return max(math.ceil(round(arrivals_rps / (target_utilization * service.sustainable_rps), 9)), 1)
