"""The state of a simulated vLLM: its requests and blocks, as its policy sees them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import RequestView
from bidkv.simulator.content import Prompt
from bidkv.simulator.list_view import ListView
from bidkv.simulator.request import SimRequest
from bidkv.simulator.state import EngineState
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.content import BlockKey, ContentTree
from bidkv.simulator.vllm.groups import GroupBlocks
from bidkv.simulator.vllm.prefix_cache import PrefixCache


class VllmState(EngineState):
    """Requests and blocks of one replica, and the `EngineView` that its policy sees; decides nothing."""

    def __init__(self, config: EngineConfig, profile: StepTimeProfile, controller: Controller) -> None:
        super().__init__(config, profile, controller)
        self.config = config
        self._prefix_caching = config.enable_prefix_caching
        self._num_prefilling = 0
        self._running: list[SimRequest] = []
        self._victims: list[SimRequest] = []
        self._by_priority = config.schedules_by_priority
        self._cache = PrefixCache(config.usable_blocks) if config.enable_prefix_caching else None
        self._content = ContentTree(config.block_size, config.prefix_chunk_tokens)
        self._asynchronous = config.async_scheduling
        self._groups = GroupBlocks(config) if config.has_groups else None
        self._blocks_per_growth = 1 if self._groups is None else self._groups.row

    # --- what a policy may ask -------------------------------------------------------------------
    @property
    def prefix_caching(self) -> bool:
        """Whether requests share blocks."""
        return self._prefix_caching

    @property
    def num_prefilling(self) -> int:
        """Running requests with more than one token to compute."""
        return self._num_prefilling

    @property
    def blocks_per_growth(self) -> int:
        """Most blocks that up to `block_size` new tokens of a request take."""
        return self._blocks_per_growth

    @property
    def running(self) -> Sequence[SimRequest]:
        """The running requests in the engine's own order."""
        return ListView(self._running)

    @property
    def num_running(self) -> int:
        """Requests that run."""
        return len(self._running)

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting `request` would free."""
        if self._cache is not None and isinstance(request, SimRequest):
            return self._cache.count_private(request._blocks)
        return request.num_held_blocks

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without the requests `excluded`.

        With sliding windows each request gives blocks back before it takes new ones, in the order of the
        list, so this is the most that is taken at any moment of the step.
        """
        groups = self._groups
        budget = self._max_num_batched_tokens
        size = self._block_size
        threshold = self.config.long_prefill_token_threshold
        demand = taken = 0
        for request in self._running:
            if request.request_id in excluded:
                continue
            computed = request._num_computed_tokens
            tokens = request._num_tokens + request._coming - computed
            if 0 < threshold < tokens:
                tokens = threshold
            tokens = min(tokens, budget, request._limit_tokens - 1 - computed)
            if tokens <= 0:
                continue
            budget -= tokens
            if groups is not None:
                taken += groups.count_missing(request, computed + tokens) - groups.count_given_back(request)
                demand = max(demand, taken)
            else:
                missing = -(-(computed + tokens) // size) - request._num_held_blocks
                if missing > 0:
                    demand += missing
            if budget <= 0:
                break
        return demand

    def cached_tokens(self, request: RequestView) -> int:
        """Leading tokens of a waiting request that the prefix cache holds now; O(cached blocks)."""
        return len(self._cached_prefix(cast("SimRequest", request))) * self._block_size

    def cached_prompt_tokens(self, prompt: Prompt) -> int:
        """Leading tokens of a prompt that is not here yet which the prefix cache holds; 0 without one."""
        cache = self._cache
        if cache is None:
            return 0
        keys = self._content.known_keys(prompt)
        usable = (prompt.prompt_tokens - 1) // self._block_size  # rule 14: the last token is computed
        return len(cache.find_leading(keys, usable)) * self._block_size

    # --- what the session accounts ask (`SessionCache`) -----------------------------------------
    def track_sessions(self, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy from now on; without prefix caching there is nothing to show.

        Args:
            find_by_prefix: whether a request without a named session is matched with the past it repeats.
        """
        if self._cache is not None:
            self._sessions = self._control.track_sessions(self, find_by_prefix=find_by_prefix)

    def block_keys(self, request: RequestView) -> Sequence[BlockKey]:
        """Return the keys of the full blocks of a live request's known tokens, in order."""
        known = cast("SimRequest", request)
        count = known._num_tokens // self._block_size
        keys = self._content.keys(known, count)
        return keys if len(keys) == count else keys[:count]

    def is_cached(self, key: Hashable) -> bool:
        """Whether a block of this content is cached now."""
        return self._cache is not None and key in self._cache

    reuses_parts = True

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Make free cached blocks the first to be reused, the last key's first; return how many moved."""
        return 0 if self._cache is None else self._cache.reuse_first(keys)

    # --- memory ----------------------------------------------------------------------------------
    def _allocate(self, request: SimRequest, blocks: int, end: int) -> None:
        """Give `request` more blocks for the positions up to `end`."""
        cache = self._cache
        if cache is None:
            if blocks > 0:
                self._free_blocks -= blocks
                request._num_held_blocks += blocks
            return
        held = request._blocks
        if blocks > 0:
            held.extend(cache.take(blocks))
            request._num_held_blocks = len(held)
            self._free_blocks = cache.free_blocks
        self._label(cache, request, min(end, request._num_tokens))

    def _give_back(self, groups: GroupBlocks, request: SimRequest) -> None:
        """Rule 23: free what has left the windows of `request`, whether or not it gets new blocks."""
        blocks = groups.count_given_back(request)
        request._given_back += blocks
        request._num_held_blocks -= blocks
        self._free_blocks += blocks

    def _label(self, cache: PrefixCache, request: SimRequest, end: int) -> None:
        """Rule 15: full blocks up to the position `end`, all of them known, can be found from now on."""
        full = end // self._block_size
        if full > request._labeled_blocks:
            keys = self._content.keys(request, full)
            cache.label(request._blocks, keys, request._labeled_blocks, full)
            request._labeled_blocks = full

    def _release(self, request: SimRequest, *, session_goes_on: bool = False) -> None:
        if self._cache is None:
            self._free_blocks += request._num_held_blocks
        else:
            shared = request._shared_tokens // self._block_size
            self._cache.release(request._blocks, retain=session_goes_on, num_shared=shared)
            request._blocks = []
            request._labeled_blocks = 0
            self._free_blocks = self._cache.free_blocks
        request._num_held_blocks = request._given_back = 0

    def _cached_prefix(self, request: SimRequest) -> list[int]:
        """Rule 14: the cached blocks a request can start from; the last token is always computed."""
        if self._cache is None:
            return []
        usable = (request._num_tokens - 1) // self._block_size
        return self._cache.find_leading(self._content.keys(request, usable), usable)
