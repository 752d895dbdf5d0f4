"""The `bidkv` strategy: tokens freed per unit of work lost.

The two formulas are functions of plain numbers, so that an engine can rank victims without building
a :class:`RequestState` for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from bidkv.baselines.base import BaselineStrategy, CompressionAction, RequestState, take_until
from bidkv.protocol import UTILITY_EPSILON, make_bid_id
from bidkv.protocol.requests import RequestView
from bidkv.scoring import PositionalScoring, ScoringStrategy

COMPLETION_WEIGHT: Final = 0.5
PREEMPTION_WEIGHT: Final = 0.3
PRIVATE_TOKENS_SCALE: Final = 256.0
"""Private tokens whose recomputation weighs as much as one whole request without prefix sharing."""


def bidkv_disruption(
    generated_tokens: int, max_output_tokens: int, num_preemptions: int, private_tokens: float = 0.0
) -> float:
    """Return delta, the work lost and the unfairness done by evicting a request.

    delta = base + 0.5 * completion + 0.3 * num_preemptions, where completion is
    min(1, generated / max_output_tokens), or 0 when the cap is unknown. The base is 1, or
    max(0.5, private / 256) when private tokens are known: what is shared need not be recomputed.

    Args:
        generated_tokens: tokens generated so far, at least 0.
        max_output_tokens: cap on generated tokens; 0 is unknown.
        num_preemptions: how often it was preempted so far.
        private_tokens: KV tokens that no other request shares; 0 is unknown.

    >>> bidkv_disruption(50, 100, 1)
    1.55
    """
    completion = min(1.0, generated_tokens / max_output_tokens) if max_output_tokens > 0 else 0.0
    penalties = COMPLETION_WEIGHT * completion + PREEMPTION_WEIGHT * num_preemptions
    if private_tokens > 0:
        return max(0.1, max(0.5, private_tokens / PRIVATE_TOKENS_SCALE) + penalties)
    return 1.0 + penalties


def bidkv_utility(
    current_tokens: int,
    generated_tokens: int,
    max_output_tokens: int,
    num_preemptions: int,
    private_tokens: float = 0.0,
) -> float:
    """Return U = r / (delta + 1e-3): tokens really freed per unit of disruption.

    r is `private_tokens` where known, else `current_tokens` (prompt plus generated tokens); delta is
    :func:`bidkv_disruption` of the other arguments.

    >>> round(bidkv_utility(1000, 0, 0, 0), 3)
    999.001
    """
    freed = private_tokens if private_tokens > 0 else current_tokens
    delta = bidkv_disruption(generated_tokens, max_output_tokens, num_preemptions, private_tokens)
    return freed / (delta + UTILITY_EPSILON)


def highest_utility(
    requests: Sequence[RequestView],
    generated_tokens: Sequence[int],
    private_blocks: Sequence[int] | None,
    block_size: int,
    known: dict[int, tuple[float, float]],
) -> RequestView:
    """Return the request with the highest :func:`bidkv_utility`, of equals the last.

    The arithmetic is the same to the last bit, without its calls: a step that is short of memory waits for
    this.

    Args:
        requests: at least one.
        generated_tokens: of each request.
        private_blocks: KV blocks of each request that no other shares, 0 is unknown; None if all are unknown.
        block_size: tokens per block.
        known: a cache between calls with one block size, by the number of private blocks; empty at first.
    """
    if private_blocks is None:
        return _highest_by_tokens(requests, generated_tokens)
    completion_weight, preemption_weight, epsilon = COMPLETION_WEIGHT, PREEMPTION_WEIGHT, UTILITY_EPSILON
    highest = -1.0
    chosen = requests[-1]
    for request, generated, blocks in zip(requests, generated_tokens, private_blocks, strict=True):
        cap = request.max_tokens
        penalties = completion_weight * (generated / cap if generated < cap else 1.0) if cap else 0.0
        if request.num_preemptions:
            penalties += preemption_weight * request.num_preemptions
        if blocks:
            try:
                freed, base = known[blocks]
            except KeyError:
                freed = float(blocks * block_size)
                base = max(0.5, freed / PRIVATE_TOKENS_SCALE)
                known[blocks] = freed, base
            utility = freed / (base + penalties + epsilon)
        else:
            utility = (request.num_prompt_tokens + generated) / (1.0 + penalties + epsilon)
        if utility >= highest:
            highest = utility
            chosen = request
    return chosen


def _highest_by_tokens(requests: Sequence[RequestView], generated_tokens: Sequence[int]) -> RequestView:
    """Return the same where private tokens are unknown, without weighing requests that cannot win."""
    completion_weight, preemption_weight, epsilon = COMPLETION_WEIGHT, PREEMPTION_WEIGHT, UTILITY_EPSILON
    freed_tokens = [r.num_prompt_tokens + done for r, done in zip(requests, generated_tokens, strict=True)]
    largest = freed_tokens.index(max(freed_tokens))
    highest = bidkv_utility(
        freed_tokens[largest],
        generated_tokens[largest],
        requests[largest].max_tokens or 0,
        requests[largest].num_preemptions,
    )
    chosen = requests[largest]
    # A request with fewer tokens than this does not reach it even at the least disruption, 1.
    too_few = int(highest * (1.0 + epsilon)) - 1
    for request, generated, freed in zip(requests, generated_tokens, freed_tokens, strict=True):
        if freed < too_few:
            continue
        cap = request.max_tokens
        penalties = completion_weight * (generated / cap if generated < cap else 1.0) if cap else 0.0
        if request.num_preemptions:
            penalties += preemption_weight * request.num_preemptions
        utility = freed / (1.0 + penalties + epsilon)
        if utility >= highest:
            highest = utility
            chosen = request
            too_few = int(highest * (1.0 + epsilon)) - 1
    return chosen


class BidKVStrategy(BaselineStrategy):
    """Evicts in descending order of utility U = r / (delta + 1e-3).

    r is what an eviction really frees: the private tokens where known, else the tokens held.

    Args:
        scoring: scorer with which adapters that compress instead of evicting build this strategy's bids.
        delta_budget: the quality budget such adapters hand to the solver, at least 0. A whole eviction
            is recomputed exactly and loses no quality, so it does not bind :meth:`select_victims`.

    Raises:
        ValueError: `delta_budget` is negative or not finite.
    """

    def __init__(self, *, scoring: ScoringStrategy | None = None, delta_budget: float = 0.15) -> None:
        if not (math.isfinite(delta_budget) and delta_budget >= 0.0):
            raise ValueError(f"delta_budget must be >= 0.0, got {delta_budget}")
        self._scoring = scoring or PositionalScoring()
        self._delta_budget = delta_budget

    @property
    def name(self) -> str:
        """`bidkv`."""
        return "bidkv"

    @property
    def scoring(self) -> ScoringStrategy:
        """The scorer that bids are built with."""
        return self._scoring

    @property
    def delta_budget(self) -> float:
        """The quality budget for the solver."""
        return self._delta_budget

    def select_victims(
        self, candidates: Sequence[RequestState], needed_tokens: int, **kwargs: Any
    ) -> list[CompressionAction]:
        """Evict in descending order of utility, stable; a request of one token or less is skipped.

        `target_tokens` is r rounded down (at least 1), so that the need is met by what is really freed.
        """
        ranked = [_eviction(request) for request in candidates if request.current_tokens > 1]
        ranked.sort(key=lambda action: action.metadata["utility"], reverse=True)
        return take_until(ranked, needed_tokens)


def _eviction(request: RequestState) -> CompressionAction:
    generated = max(0, request.current_tokens - request.num_prompt_tokens)
    history = (generated, request.max_output_tokens, request.num_preemptions, request.private_tokens)
    metadata = {
        "strategy": "bidkv",
        "bid_id": make_bid_id(request.request_id, 0),
        "quality_delta": bidkv_disruption(*history),
        "utility": bidkv_utility(request.current_tokens, *history),
    }
    freed = request.private_tokens if request.private_tokens > 0 else request.current_tokens
    return CompressionAction(request.request_id, "evict", max(1, int(freed)), metadata)
