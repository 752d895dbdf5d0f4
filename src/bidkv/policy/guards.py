"""Guards around a policy: small objects the controller asks; a policy never sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.protocol.requests import RequestView

logger = logging.getLogger("bidkv")


@dataclass(frozen=True, slots=True)
class PreemptionCap:
    """Lets a request become a policy's victim at most `limit` times; None is unbounded.

    When every candidate is capped nobody is left and the engine's own rule decides, so the cap bounds what
    a policy does to one request, not what the engine does.
    """

    limit: int | None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"preemption cap must be >= 1 or None, got {self.limit}")

    def eligible(self, candidates: Sequence[RequestView]) -> list[RequestView]:
        """Return the candidates preempted fewer than `limit` times, order kept."""
        limit = self.limit
        if limit is None:
            return list(candidates)
        return [request for request in candidates if request.num_preemptions < limit]


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
