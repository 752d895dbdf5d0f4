"""The engine's own victim order, and the same under shortest-prompt-first admission."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bidkv.baselines.base import BaselineStrategy, CompressionAction, RequestState, take_until

ENGINE_ORDER: Final = "preempt-evict"
"""The engine's own order: the baseline of every comparison, and what runs unless a policy is named."""


class PreemptEvictStrategy(BaselineStrategy):
    """vLLM's own behavior: first come, first served; evict the least important request first.

    Among equals the first in the list is evicted, so an engine that evicts last in, first out lists the
    newest first.
    """

    @property
    def name(self) -> str:
        """`preempt-evict`."""
        return ENGINE_ORDER

    def select_victims(
        self, candidates: Sequence[RequestState], needed_tokens: int, **kwargs: Any
    ) -> list[CompressionAction]:
        """Evict whole requests by ascending priority; requests that hold nothing are skipped."""
        actions = [
            CompressionAction(
                request.request_id,
                "evict",
                request.current_tokens,
                {"strategy": self.name, "priority": request.priority},
            )
            for request in sorted(candidates, key=lambda request: request.priority)
            if request.current_tokens > 0
        ]
        return take_until(actions, needed_tokens)


class PreemptEvictSJFStrategy(PreemptEvictStrategy):
    """The same victims; inside an engine the shortest prompt enters first under this name."""

    @property
    def name(self) -> str:
        """`preempt-evict-sjf`."""
        return "preempt-evict-sjf"
