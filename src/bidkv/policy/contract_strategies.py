"""The five strategies of `bidkv.baselines` (the original contract) as policies on live requests.

Each makes the same choice as its strategy, without copying requests. All keep the engine's own admission
order except `preempt-evict-sjf`, so that they differ in their victims alone. `tests/policy` compares each
choice with the first action of the strategy's `select_victims`, given the newest request first, as an
engine that evicts last in, first out lists them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bidkv.baselines import ENGINE_ORDER
from bidkv.baselines.bidkv_strategy import bidkv_disruption, bidkv_utility, highest_utility
from bidkv.policy.parts.columns import last_least
from bidkv.policy.parts.ordering import OrderedAdmission
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class PreemptEvict(Policy):
    """`preempt-evict`: the engine's own order, untouched."""

    name = ENGINE_ORDER


class PreemptEvictSJF(OrderedAdmission):
    """`preempt-evict-sjf`: the shortest prompt enters first; victims are the engine's own."""

    name = "preempt-evict-sjf"

    def waiting_key(self, request: RequestView) -> tuple[int, float]:
        """Prompt length, then arrival."""
        return (request.num_prompt_tokens, request.arrival_s)


class StaticRandom(Policy):
    """`static-random`: preempt a running request drawn from a seeded generator."""

    name = "static-random"
    victim_rule = "drawn at random"

    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return a random candidate."""
        # Below the length of the list: one draw instead of shuffling a copy, the same distribution.
        return candidates[self._random.randrange(len(candidates))]


class LargestFirst(Policy):
    """`largest-first`: preempt the request that holds the most KV."""

    name = "largest-first"
    victim_rule = "the most computed tokens"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the most computed tokens."""
        computed = engine.column(candidates, "num_computed_tokens")
        return last_least(candidates, [-tokens for tokens in computed])


class BidKV(Policy):
    """`bidkv`: the auction as the contract states it, U = tokens freed / (disruption + 1e-3)."""

    name = "bidkv"
    victim_rule = "the highest utility, tokens freed / (disruption + 0.001)"

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, float]] = {}

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the highest utility."""
        generated = engine.column(candidates, "num_output_tokens")
        private = engine.column(candidates, "freed_blocks") if engine.prefix_caching else None
        return highest_utility(candidates, generated, private, engine.block_size, self._known)

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the utility and what it is made of."""
        private = engine.freed_blocks(request) * engine.block_size if engine.prefix_caching else 0
        generated = request.num_output_tokens
        cap = request.max_tokens or 0
        return {
            "utility": self._utility(request, private),
            "freed_tokens": private if private > 0 else request.num_prompt_tokens + generated,
            "disruption": bidkv_disruption(generated, cap, request.num_preemptions, private),
        }

    @staticmethod
    def _utility(request: RequestView, private_tokens: int) -> float:
        generated = request.num_output_tokens
        return bidkv_utility(
            current_tokens=request.num_prompt_tokens + generated,
            generated_tokens=generated,
            max_output_tokens=request.max_tokens or 0,
            num_preemptions=request.num_preemptions,
            private_tokens=private_tokens,
        )


CONTRACT_POLICIES: tuple[type[Policy], ...] = (
    PreemptEvict,
    PreemptEvictSJF,
    StaticRandom,
    LargestFirst,
    BidKV,
)
