"""Published victim rules; admission stays the engine's own."""

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
    victim_rule = "the fewest computed tokens"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest computed tokens."""
        return least(candidates, lambda request: request.num_computed_tokens)


class MostRemaining(Policy):
    """`most-remaining`: preempt who may still generate the most tokens, max_tokens - generated.

    Source: vLLM PR 36980 (shortest remaining time first among victims); the preemption of SRPT, Schrage 1968.
    """

    name = "most-remaining"
    victim_rule = "the most tokens left to its cap"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the most tokens left to its cap."""
        return least(
            candidates, lambda request: request.num_output_tokens - output_budget_tokens(request, engine)
        )

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the tokens left."""
        return {"remaining_tokens": output_budget_tokens(request, engine) - request.num_output_tokens}


class CostAwareVictim(Policy):
    """`pr-56897`: preempt the highest score B / max(1, T) * (1 - O / max(1, M)).

    B are the blocks held by the request alone, T its tokens so far, O its generated tokens and M its cap.
    Source: vLLM PR 56897.
    """

    name = "pr-56897"
    victim_rule = "the highest score, blocks per token of the unfinished share"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the highest score."""
        return least(candidates, lambda request: -self._score(request, engine))

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the score."""
        return {"score": self._score(request, engine)}

    @staticmethod
    def _score(request: RequestView, engine: EngineView) -> float:
        generated = request.num_output_tokens
        tokens = request.num_prompt_tokens + generated
        progress = generated / max(1, output_budget_tokens(request, engine))
        return engine.freed_blocks(request) / max(1, tokens) * (1.0 - progress)


def output_budget_tokens(request: RequestView, engine: EngineView) -> int:
    """Return the cap on generated tokens; a request without one may fill the cache, as in vLLM."""
    if request.max_tokens is not None:
        return request.max_tokens
    return engine.num_blocks * engine.block_size - request.num_prompt_tokens
