"""Guards around a policy: small objects the controller asks; a policy never sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.protocol.requests import RequestView

logger = logging.getLogger("bidkv")


FRUITLESS_PREEMPTIONS = 32
"""How many preemptions more than its output explains a request without a cap can suffer from a policy."""

TOKENS_PER_PREEMPTION = 16
"""Generated tokens that make up for one preemption."""


@dataclass(frozen=True, slots=True)
class PreemptionCap:
    """Lets a request become a policy's victim while it was preempted fewer than `limit` times.

    None is bounded by progress alone: 32 preemptions, and one more for every 16 tokens generated. A rule
    without that bound can preempt a few requests in turn for ever, so that not one token comes out
    (largest-first does, see docs/reference/simulator.md); runs that make progress never come near it.

    Candidates beyond the bound are left to the engine's own rule, so it bounds what a policy does to one
    request, not what the engine does.
    """

    limit: int | None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"preemption cap must be >= 1 or None, got {self.limit}")

    def eligible(self, candidates: Sequence[RequestView], at_most: int | None = None) -> list[RequestView]:
        """Return the candidates within the bound, order kept.

        Args:
            candidates: running requests.
            at_most: a number of preemptions that none of them exceeds, where the engine knows one: mostly it
                tells without a look at each of them that all are within the bound.
        """
        limit = self.limit
        if at_most is not None and at_most < (FRUITLESS_PREEMPTIONS if limit is None else limit):
            return list(candidates)
        if limit is not None:
            return [request for request in candidates if request.num_preemptions < limit]
        return [
            request
            for request in candidates
            if request.num_preemptions < FRUITLESS_PREEMPTIONS  # nearly always: one look is enough
            or request.num_preemptions
            < FRUITLESS_PREEMPTIONS + request.num_output_tokens // TOKENS_PER_PREEMPTION
        ]


class CircuitBreaker:
    """Switches a policy off for good at its first failure; counted by reason, logged once per opening."""

    __slots__ = ("failures", "is_open", "reason")

    def __init__(self) -> None:
        self.is_open = False
        self.reason = ""
        self.failures: dict[str, int] = {}

    def trip(self, policy_name: str, kind: str, detail: str) -> None:
        """Open the breaker.

        Args:
            policy_name: whose fault it was.
            kind: "exception", "invalid_answer" or "time_budget".
            detail: for the log.
        """
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if self.is_open:
            return
        self.is_open = True
        self.reason = f"{kind}: {detail}"
        logger.error(
            "bidkv: policy %r is switched off and the engine's own rule takes over (%s)",
            policy_name,
            self.reason,
        )

    def close(self) -> None:
        """Give the policy another chance (an operator asked for it)."""
        self.is_open = False
        self.reason = ""
