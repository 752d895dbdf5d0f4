"""Published rules, as published: no cap, no tuning."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.policy.ordering import least
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class LeastComputedFirst(Policy):
    """`lcf`: preempt who has the fewest computed tokens, admit as the engine does.

    Source: vLLM RFC 54644, which measures the recompute tax this saves.
    """

    name = "lcf"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest computed tokens."""
        return least(candidates, lambda request: request.num_computed_tokens)


RULE_POLICIES: tuple[type[Policy], ...] = (LeastComputedFirst,)
