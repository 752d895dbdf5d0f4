"""Selects bids by tokens freed per unit of quality lost, within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from bidkv.protocol import BidAcceptance, BidCapacityError, BidPool

# Three deltas of 0.05 add up to 0.15000000000000002 and must fit a budget of 0.15.
_BUDGET_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SolverConfig:
    """Whether the solver runs, and its limits.

    Attributes:
        enabled: off by default.
        delta_budget: most quality loss of one decision, in [0, 1].
        max_bids_per_solve: most bids one decision accepts, at least 1.
        kill_switch: stops the solver whatever `enabled` says.
        decision_reason: reason given in acceptances by default.

    Raises:
        ValueError: a value is out of range.
    """

    enabled: bool = False
    delta_budget: float = 0.15
    max_bids_per_solve: int = 20
    kill_switch: bool = False
    decision_reason: str = "kv_pool_pressure_threshold_exceeded"

    def __post_init__(self) -> None:
        if not 0.0 <= self.delta_budget <= 1.0:
            raise ValueError(f"delta_budget must be in [0.0, 1.0], got {self.delta_budget!s:.60}")
        if not self.max_bids_per_solve >= 1:
            raise ValueError(f"max_bids_per_solve must be >= 1, got {self.max_bids_per_solve!s:.60}")
        if not self.decision_reason:
            raise ValueError("decision_reason must be a non-empty string")

    @property
    def is_active(self) -> bool:
        """Enabled, and not stopped by the kill switch."""
        return self.enabled and not self.kill_switch


class PressureSource(Protocol):
    """The part of a detector that the solver uses; :class:`bidkv.pressure.PressureDetector` is one."""

    def is_under_pressure(self) -> bool:
        """Whether memory must be freed now."""

    def needed_tokens(self) -> int:
        """KV tokens to free."""


class GreedyBidSolver:
    """Accepts bids in descending order of utility until enough tokens are freed.

    Greedy by density, the classic heuristic for the knapsack problem (Dantzig 1957), with at most
    one bid a request. O(b log b) for b bids.
    """

    __slots__ = ("_config",)

    def __init__(self, config: SolverConfig | None = None) -> None:
        self._config = config or SolverConfig()

    def update_config(self, config: SolverConfig) -> None:
        """Use `config` from the next call on."""
        self._config = config

    def solve(
        self,
        pool: BidPool,
        tokens_needed: int,
        delta_budget: float | None = None,
        *,
        decision_reason: str | None = None,
    ) -> BidAcceptance:
        """Choose bids that free `tokens_needed`, or as much as limits allow.

        Args:
            pool: the bids on offer; among equal utilities its order decides.
            tokens_needed: KV tokens to free.
            delta_budget: overrides the configured budget; at least 0, may exceed 1.
            decision_reason: overrides the configured reason.

        Returns:
            What was accepted. It is empty, and its reason ends in `:kill_switch`, `:feature_off`,
            `:no_tokens_needed` or `:empty_pool` (checked in this order), when there was nothing to decide.

        Raises:
            ValueError: `delta_budget` is negative or not finite.
        """
        config = self._config
        reason = config.decision_reason if decision_reason is None else decision_reason
        suffix = _nothing_to_decide(config, pool, tokens_needed)
        if suffix:
            return BidAcceptance((), 0, 0.0, f"{reason}:{suffix}")
        budget = config.delta_budget if delta_budget is None else delta_budget
        if not (math.isfinite(budget) and budget >= 0.0):
            raise ValueError(f"delta_budget must be >= 0.0, got {budget!s:.60}")

        accepted: dict[str, str] = {}  # request id -> bid id
        freed = 0
        delta = 0.0
        for bid in pool.top_k_by_utility(len(pool.bids)):
            if bid.request_id in accepted or delta + bid.quality_delta > budget + _BUDGET_TOLERANCE:
                continue
            accepted[bid.request_id] = bid.bid_id
            freed += bid.tokens_freed
            delta += bid.quality_delta
            if freed >= tokens_needed or len(accepted) >= config.max_bids_per_solve:
                break
        return BidAcceptance(tuple(accepted.values()), freed, round(delta, 6), reason)

    def solve_or_raise(
        self,
        pool: BidPool,
        tokens_needed: int,
        delta_budget: float | None = None,
        *,
        decision_reason: str | None = None,
    ) -> BidAcceptance:
        """Like :meth:`solve`, for callers that cannot use a part of the tokens.

        Raises:
            BidCapacityError: the acceptable bids free fewer than `tokens_needed`.
            ValueError: as :meth:`solve`.
        """
        acceptance = self.solve(pool, tokens_needed, delta_budget, decision_reason=decision_reason)
        if acceptance.total_tokens_freed < tokens_needed:
            raise BidCapacityError(
                f"{tokens_needed} tokens are needed, acceptable bids free {acceptance.total_tokens_freed} "
                f"({acceptance.decision_reason})",
                requested_tokens=tokens_needed,
                available_tokens=acceptance.total_tokens_freed,
            )
        return acceptance

    def solve_with_detector(
        self,
        pool: BidPool,
        detector: PressureSource,
        delta_budget: float | None = None,
        *,
        decision_reason: str | None = None,
    ) -> BidAcceptance:
        """Like :meth:`solve` for the tokens `detector` asks for; 0 while it sees no pressure."""
        tokens_needed = detector.needed_tokens() if detector.is_under_pressure() else 0
        return self.solve(pool, tokens_needed, delta_budget, decision_reason=decision_reason)


def _nothing_to_decide(config: SolverConfig, pool: BidPool, tokens_needed: int) -> str:
    if config.kill_switch:
        return "kill_switch"
    if not config.enabled:
        return "feature_off"
    if tokens_needed <= 0:
        return "no_tokens_needed"
    return "" if pool.bids else "empty_pool"
