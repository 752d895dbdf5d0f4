"""How many KV blocks the running list takes in the coming step, counted as vLLM's schedule() will.

It is asked only when memory is short, but then once for every victim: the first answer walks through the
running list, each later one subtracts a victim's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bidkv.adapters.vllm.groups import CacheGroup


class BlockDemand:
    """Counts the demand for blocks of a scheduler with one group of full attention.

    The count is rounded up where the engine takes less for reasons of its own (encoder budgets, adaptive
    thresholds, data-parallel prefill balancing). Naming too many victims does little harm, since the engine
    preempts only as many as it must, first choice first.
    """

    __slots__ = ("_counted_without", "_held", "_plain", "_scheduler", "_size", "_total")

    def __init__(self, scheduler: Any, group: CacheGroup) -> None:
        self._scheduler = scheduler
        self._held = group.held
        self._size = group.block_size
        self._plain = not scheduler.num_spec_tokens and not scheduler.num_lookahead_tokens
        self._total = 0
        # The requests that the total leaves out; None while it must be counted anew.
        self._counted_without: frozenset[str] | None = None

    def begin_step(self) -> None:
        """Forget the last step's count."""
        self._counted_without = None

    @property
    def num_multi_token(self) -> int:
        """Running requests that may take more than one block: prefills, or all of them while speculating."""
        scheduler = self._scheduler
        if scheduler.num_spec_tokens:
            return len(scheduler.running)
        return len(scheduler._inflight_prefills)

    def is_prefilling(self, request: Any) -> bool:
        """Return whether `num_multi_token` counts a running request."""
        return bool(self._scheduler.num_spec_tokens) or request in self._scheduler._inflight_prefills

    def blocks(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes without the requests `excluded`; O(running) once a step."""
        counted_without = self._counted_without
        if not excluded and self._sum():
            return self._total
        if not excluded or counted_without is None or not counted_without <= excluded:
            return self._walk(excluded)
        requests = self._scheduler.requests
        gone = excluded - counted_without
        return self._total - sum([self._need(requests[request_id])[1] for request_id in gone])

    def _sum(self) -> bool:
        """Count without regard to order, which matters only when token budget is short; False when it is."""
        scheduler = self._scheduler
        if not self._plain:
            return False
        running = scheduler.running
        prefills = [request for request in scheduler._inflight_prefills if request.status.name == "RUNNING"]
        needs = [self._need(request) for request in prefills]
        if len(running) + sum([tokens for tokens, _ in needs]) >= scheduler.max_num_scheduled_tokens:
            return False
        size = self._size
        # A decoding request takes one token, so a block when its computed positions fill those it holds.
        full = [request for request in running if not request.num_computed_tokens % size]
        decodes = [request for request in full if request not in scheduler._inflight_prefills]
        self._total = sum([blocks for _, blocks in needs]) + self._decodes(decodes)
        self._counted_without = frozenset()
        return True

    def _decodes(self, requests: list[Any]) -> int:
        """Blocks of decodes whose computed positions fill whole blocks; as :meth:`_need`, in one loop."""
        limit = self._scheduler.max_model_len - self._scheduler.num_sampled_tokens_per_step
        held = self._held
        size = self._size
        blocks = 0
        for request in requests:
            computed = request.num_computed_tokens
            if request.num_tokens_with_spec - computed != 1 or computed >= limit:
                blocks += self._need(request)[1]  # with tokens in flight, or at its end
            elif len(held.get(request.request_id, ())) * size <= computed:
                blocks += 1
        return blocks

    def _walk(self, excluded: frozenset[str]) -> int:
        scheduler = self._scheduler
        prefills = scheduler._inflight_prefills
        budget = scheduler.max_num_scheduled_tokens
        size = self._size
        plain = self._plain
        demand = 0
        for request in scheduler.running:
            if excluded and request.request_id in excluded:
                continue
            if plain and request not in prefills:
                budget -= 1
                if request.num_computed_tokens % size == 0:
                    tokens, blocks = self._need(request)
                    demand += blocks
                    budget += 1 - tokens
            else:
                tokens, blocks = self._need(request, budget)
                demand += blocks
                budget -= tokens
            if budget <= 0:
                break
        # While the token budget is short, a victim leaves its tokens to others: every answer is a new walk.
        self._total = demand
        self._counted_without = excluded if budget > 0 else None
        return demand

    def _need(self, request: Any, budget: int | None = None) -> tuple[int, int]:
        """Tokens and blocks one running request takes with at most `budget` tokens."""
        tokens = self._tokens(request, budget)
        if tokens <= 0:
            return 0, 0
        missing = -(-self._end(request, tokens) // self._size) - len(self._held.get(request.request_id, ()))
        return tokens, max(0, missing)

    def _tokens(self, request: Any, budget: int | None) -> int:
        """Tokens one running request computes with at most `budget` tokens; none if not positive."""
        scheduler = self._scheduler
        computed: int = request.num_computed_tokens
        in_flight = request.num_output_placeholders
        if in_flight > 0 and computed + 2 - in_flight >= request.num_prompt_tokens + request.max_tokens:
            return 0  # its last token is on its way: the engine skips it
        tokens: int = request.num_tokens_with_spec + in_flight - computed
        threshold = scheduler.scheduler_config.long_prefill_token_threshold
        if 0 < threshold < tokens:
            tokens = threshold
        if budget is not None and tokens > budget:
            tokens = budget
        room: int = scheduler.max_model_len - computed - scheduler.num_sampled_tokens_per_step
        return min(tokens, room)

    def _end(self, request: Any, tokens: int) -> int:
        """Positions that need a place after `tokens` more are computed, those of drafts ahead included."""
        scheduler = self._scheduler
        end = request.num_computed_tokens + tokens + scheduler.num_lookahead_tokens
        return int(min(end, scheduler.max_model_len))


class GroupedDemand(BlockDemand):
    """The demand of a model with several groups of KV cache, or with one that gives blocks back.

    Each request first gives back what has left its windows and then takes what it needs, in the order of the
    running list. So the demand is not the sum but its peak: the most that is taken at any moment of the step.
    """

    __slots__ = ("_counted", "_groups", "_split")

    def __init__(self, scheduler: Any, groups: Sequence[CacheGroup]) -> None:
        super().__init__(scheduler, groups[0])
        self._groups = groups
        self._plain = False
        # Under this setting a prompt is cut where a state must be kept; the engine's own rule says where.
        cuts = getattr(scheduler, "need_mamba_block_aligned_split", False)
        self._split = scheduler._mamba_block_aligned_split if cuts else None
        # By request: tokens, blocks taken and blocks given back, as counted in this step.
        self._counted: dict[str, tuple[int, int, int]] = {}

    def begin_step(self) -> None:
        """Forget the last step's count."""
        self._counted.clear()

    def blocks(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes at most without the requests `excluded`; O(running)."""
        budget = self._scheduler.max_num_scheduled_tokens
        counted = self._counted
        taken = peak = 0
        for request in self._scheduler.running:
            request_id = request.request_id
            if request_id in excluded:
                continue
            tokens = self._tokens(request, budget)
            if tokens > 0 and self._split is not None:
                tokens = self._split(request, tokens)
            if tokens <= 0:
                continue
            known = counted.get(request_id)
            if known is None or known[0] != tokens:
                known = counted[request_id] = (tokens, *self._count(request, tokens))
            taken += known[1] - known[2]
            peak = max(peak, taken)
            budget -= tokens
            if budget <= 0:
                break
        return peak

    def _count(self, request: Any, tokens: int) -> tuple[int, int]:
        end = self._end(request, tokens)
        missing = sum([group.count_missing(request, tokens, end) for group in self._groups])
        return missing, sum([group.count_given_back(request) for group in self._groups])


def count_demand(scheduler: Any, groups: Sequence[CacheGroup]) -> BlockDemand:
    """Return what counts the demand of a scheduler with these groups of KV cache."""
    if len(groups) == 1 and groups[0].keeps_everything:
        return BlockDemand(scheduler, groups[0])
    return GroupedDemand(scheduler, groups)
