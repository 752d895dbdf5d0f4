"""What the queueing controller says: the state it sees, and its decision on one request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

METRIC_NAMES = (
    "queueing_lambda",
    "queueing_mu",
    "queueing_rho",
    "queueing_is_stable",
    "queueing_lambda_critical",
    "queueing_minimum_stable_blocks",
    "queueing_stability_margin_pct",
)


@dataclass(frozen=True, slots=True)
class StabilityState:
    """What the controller knows at one instant.

    Attributes:
        arrival_rate_lambda: arrivals, requests per second.
        service_rate_mu: requests per second the server can serve, concurrency / E[service time].
        mean_blocks_per_request: E[KV blocks of one request].
        utilization_rho: lambda / mu; 1 and above means overload.
        is_stable: rho < 1 and the free blocks reach the (uncapped) floor.
        lambda_critical: the arrival rate whose floor equals the blocks free now, requests per second.
        minimum_stable_blocks: the floor of free blocks, at most the blocks that exist.
        stability_margin_pct: distance of lambda from the boundary min(mu, lambda_critical) in percent of
            the larger of the two: positive when stable, negative when not, within [-100, 100].
    """

    arrival_rate_lambda: float
    service_rate_mu: float
    mean_blocks_per_request: float
    utilization_rho: float
    is_stable: bool
    lambda_critical: float
    minimum_stable_blocks: int
    stability_margin_pct: float

    def as_metrics(self) -> dict[str, float]:
        """Return the gauges of the metrics exporter."""
        values = (
            self.arrival_rate_lambda,
            self.service_rate_mu,
            self.utilization_rho,
            float(self.is_stable),
            self.lambda_critical,
            float(self.minimum_stable_blocks),
            self.stability_margin_pct,
        )
        return dict(zip(METRIC_NAMES, values, strict=True))


NO_DATA = dict.fromkeys(METRIC_NAMES, math.nan)


class DecisionReason(StrEnum):
    """Why :meth:`QueueingController.decide` decided as it did."""

    FITS = "fits"
    EVICT_FIRST = "evict_first"
    EVICTED_A_MOMENT_AGO = "evicted_a_moment_ago"
    EXCEEDS_MEMORY = "exceeds_memory"


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """What to do with a request that needs `requested_new_blocks`.

    Attributes:
        admit: admit it now, once `evict_blocks` blocks are evicted. When it is true, the free blocks
            afterwards reach `floor_blocks` (INVARIANT-11).
        evict_blocks: blocks to evict now; 0 unless `admit`.
        floor_blocks: free blocks that must remain.
        defer: ask again after `retry_after_ms`: only the eviction interval stands in the way.
        retry_after_ms: milliseconds until an eviction is allowed again; 0 unless `defer`.
        feasible: whether floor and request fit into the memory at all under the present load.
        reason: the rule that decided.
    """

    admit: bool
    evict_blocks: int
    floor_blocks: int
    defer: bool
    retry_after_ms: float
    feasible: bool
    reason: DecisionReason
