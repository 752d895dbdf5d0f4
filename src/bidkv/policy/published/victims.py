"""Published victim rules; admission stays the engine's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bidkv.policy.parts.columns import last_least
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class LeastComputedFirst(Policy):
    """`lcf`: preempt the request with the fewest computed tokens; admission is the engine's own.

    Source: vLLM RFC 54644, which measures the recompute tax this saves.
    """

    name = "lcf"
    victim_rule = "the fewest computed tokens"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest computed tokens."""
        return last_least(candidates, engine.column(candidates, "num_computed_tokens"))


class MostRemaining(Policy):
    """`most-remaining`: preempt the request that may still generate the most tokens, max_tokens - generated.

    Source: vLLM PR 36980 (shortest remaining time first among victims); the preemption of SRPT, Schrage 1968.
    """

    name = "most-remaining"
    victim_rule = "the most tokens left to its cap"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the most tokens left to its cap."""
        memory_tokens = engine.num_blocks * engine.block_size
        done = engine.column(candidates, "num_output_tokens")
        keys = [
            generated
            - (memory_tokens - request.num_prompt_tokens if (cap := request.max_tokens) is None else cap)
            for request, generated in zip(candidates, done, strict=True)
        ]
        return last_least(candidates, keys)

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
        memory_tokens = engine.num_blocks * engine.block_size
        freed = engine.column(candidates, "freed_blocks")
        done = engine.column(candidates, "num_output_tokens")
        highest = -math.inf
        chosen = candidates[-1]
        for request, blocks, generated in zip(candidates, freed, done, strict=True):
            prompt = request.num_prompt_tokens
            share = blocks / ((prompt + generated) or 1)
            if share < highest:  # the unfinished share is 1 at most
                continue
            cap = request.max_tokens
            if cap is None:
                cap = memory_tokens - prompt
            score = share * (1.0 - generated / (cap if cap > 0 else 1))
            if score >= highest:
                highest = score
                chosen = request
        return chosen

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
