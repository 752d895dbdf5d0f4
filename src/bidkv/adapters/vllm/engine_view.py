"""A vLLM v1 scheduler as the policy protocol sees it: its own objects, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from bidkv.adapters.vllm.demand import count_demand
from bidkv.adapters.vllm.groups import read_block_size, read_groups
from bidkv.adapters.vllm.request_view import RunningRequests, VllmRequest
from bidkv.adapters.vllm.restoring import RestorePrice
from bidkv.adapters.vllm.sharing import SharedBlocks
from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.policy import Figure
from bidkv.protocol.read_only import seal, write_facts
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionCache, SessionTable


class _StepCounts:
    """What the view counts step by step; apart, because the view itself is sealed."""

    __slots__ = ("scheduled_tokens", "steps", "whole_prompts")

    def __init__(self) -> None:
        self.steps = self.scheduled_tokens = 0
        # Requests admitted in this step whose prompt is computed whole in it: vLLM never calls them prefills.
        self.whole_prompts = 0


class VllmEngineView(EngineViewDefaults):
    """A vLLM v1 scheduler as an `EngineView`.

    Args:
        scheduler: the engine's scheduler.
        waiting: yields the waiting requests in the engine's own order.
        clock: seconds, monotonic.
    """

    __slots__ = (
        "_blocks",
        "_clock",
        "_counts",
        "_demand",
        "_gone",
        "_groups",
        "_is_grouped",
        "_pool",
        "_scheduler",
        "_sharing",
        "_waiting",
        "block_size",
        "blocks_per_growth",
        "cache",
        "max_num_batched_tokens",
        "max_num_seqs",
        "most_preemptions",
        "num_blocks",
        "prefix_caching",
        "restoring",
        "running",
        "sessions",
        "views",
    )

    def __init__(
        self, scheduler: Any, waiting: Callable[[], Iterable[Any]], clock: Callable[[], float]
    ) -> None:
        manager = scheduler.kv_cache_manager
        self._scheduler = scheduler
        self._pool = manager.block_pool
        self._clock = clock
        self._waiting = waiting
        self._groups = groups = read_groups(scheduler)
        self._blocks = groups[0].held
        self._is_grouped = len(groups) > 1 or not groups[0].keeps_everything
        self._demand = count_demand(scheduler, groups)
        self._sharing = SharedBlocks() if _shares_by_events(scheduler) else None
        self.restoring = RestorePrice(clock) if scheduler.connector is not None else None
        self._gone: list[VllmRequest] = []
        self._counts = _StepCounts()
        self.views: dict[Any, VllmRequest] = {}
        self.running: Sequence[VllmRequest] = RunningRequests(scheduler, self.views)
        self.block_size = read_block_size(groups)
        self.num_blocks: int = manager.block_pool.num_gpu_blocks - 1
        self.max_num_seqs: int = scheduler.max_num_running_reqs
        self.max_num_batched_tokens: int = scheduler.max_num_scheduled_tokens
        size = self.block_size
        self.blocks_per_growth: int = sum(
            max(group.growth_blocks, -(-size // group.block_size)) for group in groups
        )
        self.prefix_caching: bool = manager.enable_caching
        self.sessions: SessionTable | None = None
        self.cache: SessionCache | None = None
        self.most_preemptions: int = 0
        seal(self)

    def get_view(self, request: Any) -> VllmRequest:
        """The view of a live request, made when first asked for."""
        view = self.views.get(request)
        if view is None:
            view = VllmRequest(request, self._clock(), self._blocks, self._scheduler.max_model_len)
            self.views[request] = view
        return view

    def scheduled(self, tokens: int) -> None:
        """Note that a step with `tokens` tokens was scheduled; everything in it was reported before."""
        counts = self._counts
        counts.steps += 1
        counts.scheduled_tokens += tokens
        counts.whole_prompts = 0

    def admitted(self, view: VllmRequest) -> None:
        """Note that the request runs and holds blocks."""
        view.admitted()
        self._counts.whole_prompts += not self._demand.is_prefilling(view._request)
        if self._sharing is not None:
            self._sharing.came(view)

    def preempted(self, view: VllmRequest) -> None:
        """Note that the request was preempted and holds no blocks any more."""
        view.reread()
        if view.num_preemptions > self.most_preemptions:
            write_facts(self, most_preemptions=view.num_preemptions)
        self._gave_up_blocks(view)

    def finished(self, view: VllmRequest) -> None:
        """Note that the request left; the engine may keep it in its running list until the next step."""
        self._gone.append(view)
        self._gave_up_blocks(view)

    @property
    def lost_token_price(self) -> float:
        """What a lost token costs, in computed tokens; below 1 where a KV connector loads it."""
        return 1.0 if self.restoring is None else self.restoring.lost_token_price

    @property
    def lost_past_price(self) -> float:
        """What a lost token of a session's past costs; below 1 where a KV connector loads it."""
        return 1.0 if self.restoring is None else self.restoring.lost_past_price

    def _gave_up_blocks(self, view: VllmRequest) -> None:
        if self._sharing is not None:
            self._sharing.left(view)
        view.left()

    def begin_step(self) -> None:
        """Forget what was computed for the last step."""
        self._demand.begin_step()
        self._counts.whole_prompts = 0
        while self._gone:
            self.views.pop(self._gone.pop()._request, None)

    @property
    def now_s(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    @property
    def free_blocks(self) -> int:
        """KV blocks that no request holds now, cached ones included."""
        free: int = self._pool.get_num_free_blocks()
        return free

    @property
    def num_running(self) -> int:
        """Requests that run."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait to enter."""
        _, waiting = self._scheduler.get_request_counts()
        count: int = waiting
        return count

    @property
    def num_prefilling(self) -> int:
        """Running requests with more than one token to compute, those admitted in this step included."""
        return self._demand.num_multi_token + self._counts.whole_prompts

    @property
    def num_steps(self) -> int:
        """Steps scheduled so far."""
        return self._counts.steps

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens of these steps."""
        return self._counts.scheduled_tokens

    def waiting(self) -> Sequence[RequestView]:
        """The waiting requests in the engine's own order."""
        return [self.get_view(request) for request in self._waiting()]

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` lives here and does not run."""
        view = cast("VllmRequest", request)
        if self.views.get(view._request) is not view:
            return False
        return view._request.status.name != "RUNNING" and not view._request.is_finished()

    def cached_tokens(self, request: RequestView) -> int:
        """Leading tokens of a waiting request that are cached now; 0 where sessions are not tracked."""
        return 0 if self.cache is None else self.cache.cached_tokens(request)

    def preemptable(self, running: Sequence[RequestView]) -> Sequence[RequestView]:
        """Those of the running requests that vLLM can preempt in the coming step.

        None while the engine is paused, since it schedules nothing.
        A KV connector that may write to blocks at any moment pins those of requests in a step in flight.
        While one of its own transfers is about to free blocks, vLLM waits for these and preempts nobody.
        """
        pause = getattr(self._scheduler, "_pause_state", None)
        if pause is not None and pause.name == "PAUSED_ALL":
            return ()
        connector = self._scheduler.connector
        if connector is None:
            return running
        frees_pending = getattr(connector, "has_pending_block_frees", None)
        if frees_pending is not None and frees_pending():
            return ()
        can_be_freed = getattr(self._scheduler, "_request_blocks_can_be_freed", None)
        if can_be_freed is None:
            return running
        views = cast("Sequence[VllmRequest]", running)
        return [view for view in views if can_be_freed(view._request)]

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks whose only holder is `request`."""
        view = cast("VllmRequest", request)
        if self._is_grouped:
            return sum([group.count_freed(view.request_id) for group in self._groups])
        blocks = self._blocks.get(view.request_id, ())
        if not self.prefix_caching:
            return len(blocks)
        return sum([block.ref_cnt == 1 for block in blocks if not block.is_null])

    def column(self, requests: Sequence[RequestView], figure: Figure) -> list[int]:
        """Read one figure of each of the running `requests` together."""
        views = cast("Sequence[VllmRequest]", requests)
        if figure == "num_computed_tokens":
            return [view._request.num_computed_tokens for view in views]
        if figure == "num_output_tokens":
            return [len(view._output_token_ids) for view in views]
        if self._sharing is not None:
            return self._sharing.private_blocks(views)
        if self.prefix_caching or self._is_grouped or self._scheduler.connector is not None:
            return [self.freed_blocks(view) for view in views]
        return [len(view._blocks) for view in views]

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without the requests `excluded`."""
        return self._demand.blocks(excluded)


def _shares_by_events(scheduler: Any) -> bool:
    """Whether only leading blocks are shared, and only admissions, preemptions and ends change their holders.

    That holds with one group of full attention and no KV connector. Other caches give up or pin blocks in
    between.
    """
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    return (
        scheduler.kv_cache_manager.enable_caching
        and len(managers) == 1
        and type(managers[0]).__name__ == "FullAttentionManager"
        and scheduler.connector is None
    )
