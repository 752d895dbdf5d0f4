"""The switches of a deployment, for adapters that compress as well as preempt."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BidKVConfig:
    """Whether bidding is on, and its limits.

    Attributes:
        enabled: the feature as a whole; off by default.
        kill_switch: stops everything at once, even if `enabled`.
        delta_budget: most quality loss one decision may spend, summed over its bids; at least 0.
        max_bids_per_solve: most bids one decision may accept; 0 sets no limit.
        truncation_ratio: share of a request's tokens that a truncating compressor keeps, in [0, 1].

    Raises:
        ValueError: a value is out of range or not finite.
    """

    enabled: bool = False
    kill_switch: bool = False
    delta_budget: float = 1.0
    max_bids_per_solve: int = 0
    truncation_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.delta_budget < math.inf:
            raise ValueError(f"delta_budget must be >= 0.0, got {self.delta_budget!s:.60}")
        if not self.max_bids_per_solve >= 0:
            raise ValueError(f"max_bids_per_solve must be >= 0, got {self.max_bids_per_solve!s:.60}")
        if not 0.0 <= self.truncation_ratio <= 1.0:
            raise ValueError(f"truncation_ratio must be in [0.0, 1.0], got {self.truncation_ratio!s:.60}")

    @property
    def is_active(self) -> bool:
        """Enabled, and not stopped by the kill switch."""
        return self.enabled and not self.kill_switch
