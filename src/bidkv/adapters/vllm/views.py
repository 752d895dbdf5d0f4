"""vLLM's own objects as the policy protocol sees them: thin, read lazily, one view per live request.

Nothing is copied per step: a view holds the engine's object and reads its fields when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

from bidkv.adapters.client_values import agent_name, positive_number, shown_cap
from bidkv.adapters.vllm.demand import BlockDemand
from bidkv.protocol.requests import RequestView

_EXTRA_PREFIX = "bidkv_"


class VllmRequest:
    """A live vLLM request as a `RequestView`.

    Deadline, weight and agent come from the request's extra arguments (`vllm_xargs` over HTTP,
    `SamplingParams.extra_args` in Python): `bidkv_deadline_ms`, `bidkv_weight`, `bidkv_agent_id`, and from
    `bidkv_max_tokens` the cap that policies see (0: none). A value that makes no sense is ignored: a client
    must not be able to fail a request, or others', with it.
    """

    __slots__ = (
        "_blocks",
        "_max_model_len",
        "_shown_cap",
        "agent_id",
        "arrival_s",
        "deadline_s",
        "priority",
        "request",
        "request_id",
        "weight",
    )

    def __init__(
        self, request: Any, arrival_s: float, blocks: dict[str, list[Any]], max_model_len: int
    ) -> None:
        self.request = request
        self.request_id: str = request.request_id
        self.arrival_s = arrival_s
        # A copy: the engine's field is raised for a moment when a victim is named under `priority`.
        self.priority: int = request.priority
        self._blocks = blocks
        self._max_model_len = max_model_len
        params = request.sampling_params
        extra = (params.extra_args if params is not None else None) or {}
        deadline_ms = positive_number(extra.get(_EXTRA_PREFIX + "deadline_ms"))
        self.deadline_s = None if deadline_ms is None else arrival_s + deadline_ms / 1e3
        self.weight = positive_number(extra.get(_EXTRA_PREFIX + "weight")) or 1.0
        self.agent_id = agent_name(extra.get(_EXTRA_PREFIX + "agent_id"))
        self._shown_cap = shown_cap(extra.get(_EXTRA_PREFIX + "max_tokens"))

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        count: int = self.request.num_prompt_tokens
        return count

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated and returned so far; those still in flight are not counted."""
        count: int = self.request.num_output_tokens
        return count

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose KV is held; with async scheduling those of the step in flight are included."""
        count: int = self.request.num_computed_tokens
        return count

    @property
    def max_tokens(self) -> int | None:
        """The cap on generated tokens; None when it is no more than what the model's length leaves."""
        if self._shown_cap is not None:
            return self._shown_cap or None
        cap: int = self.request.max_tokens
        return None if cap >= self._max_model_len - self.num_prompt_tokens else cap

    @property
    def num_preemptions(self) -> int:
        """How often it was preempted so far."""
        count: int = self.request.num_preemptions
        return count

    @property
    def num_held_blocks(self) -> int:
        """KV blocks it holds now."""
        return len(self._blocks.get(self.request_id, ()))

    def __repr__(self) -> str:
        return f"VllmRequest({self.request_id!r}, computed={self.num_computed_tokens})"


class VllmEngine:
    """A vLLM v1 scheduler as an `EngineView`.

    Args:
        scheduler: the engine's scheduler.
        waiting: yields the waiting requests in the engine's own order.
        clock: seconds, monotonic.
    """

    def __init__(
        self, scheduler: Any, waiting: Callable[[], Iterable[Any]], clock: Callable[[], float]
    ) -> None:
        manager = scheduler.kv_cache_manager
        self._scheduler = scheduler
        self._pool = manager.block_pool
        self._clock = clock
        self._waiting = waiting
        # The first group stands for all: victims are ranked by it, and a plain model has no other.
        self._blocks: dict[str, list[Any]] = manager.coordinator.single_type_managers[0].req_to_blocks
        self._demand = BlockDemand(scheduler)
        self._unshared: bool | None = None
        self._gone: list[VllmRequest] = []
        self.num_scheduled_tokens = 0
        self.views: dict[str, VllmRequest] = {}
        self.running: Sequence[VllmRequest] = _Running(scheduler, self.views)
        self.block_size: int = scheduler.block_size
        self.num_blocks: int = manager.block_pool.num_gpu_blocks - 1
        self.max_num_seqs: int = scheduler.max_num_running_reqs
        self.max_num_batched_tokens: int = scheduler.max_num_scheduled_tokens
        self.prefix_caching: bool = manager.enable_caching
        self.num_scheduled_tokens = 0

    def view_of(self, request: Any) -> VllmRequest:
        """The view of a live request, made when first asked for."""
        view = self.views.get(request.request_id)
        if view is None or view.request is not request:
            view = VllmRequest(request, self._clock(), self._blocks, self._scheduler.max_model_len)
            self.views[request.request_id] = view
        return view

    def forget(self, view: VllmRequest) -> None:
        """The request left the engine, which may keep it in its running list until the next step."""
        self._gone.append(view)

    def begin_step(self) -> None:
        """A step is about to be scheduled: what was worked out for the last one no longer holds."""
        self._demand.begin_step()
        self._unshared = None
        while self._gone:
            view = self._gone.pop()
            if self.views.get(view.request_id) is view:
                del self.views[view.request_id]

    @property
    def now_s(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    @property
    def free_blocks(self) -> int:
        """KV blocks nobody holds now."""
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
        """Running requests with more than one token to compute."""
        return self._demand.num_multi_token

    @property
    def num_steps(self) -> int:
        """Steps scheduled since the engine started."""
        steps: int = self._scheduler.current_step
        return steps

    def waiting(self) -> Sequence[RequestView]:
        """The waiting requests in the engine's own order."""
        return [self.view_of(request) for request in self._waiting()]

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` lives here and does not run."""
        view = self.views.get(request.request_id)
        if view is None or view is not request:
            return False
        return view.request.status.name != "RUNNING" and not view.request.is_finished()

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks whose only holder is `request`; 0 while a KV transfer keeps them from being freed."""
        view = self.views[request.request_id]
        can_be_freed = getattr(self._scheduler, "_request_blocks_can_be_freed", None)
        if can_be_freed is not None and not can_be_freed(view.request):
            return 0
        if not self.prefix_caching or self._nothing_is_shared():
            return view.num_held_blocks
        return sum(
            [block.ref_cnt == 1 for block in self._blocks.get(view.request_id, ()) if not block.is_null]
        )

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without the requests `excluded`."""
        return self._demand.blocks(excluded)

    def _nothing_is_shared(self) -> bool:
        """Whether the running requests hold as many blocks as are in use: then each block has one holder."""
        if self._unshared is None:
            held = self._blocks
            total = sum([len(held.get(request.request_id, ())) for request in self._scheduler.running])
            self._unshared = total == self.num_blocks - self.free_blocks
        return self._unshared


class _Running(Sequence[VllmRequest]):
    """The running list as views, without a copy; the engine replaces its list now and then."""

    __slots__ = ("_scheduler", "_views")

    def __init__(self, scheduler: Any, views: dict[str, VllmRequest]) -> None:
        self._scheduler = scheduler
        self._views = views

    def __len__(self) -> int:
        return len(self._scheduler.running)

    @overload
    def __getitem__(self, index: int) -> VllmRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[VllmRequest]: ...
    def __getitem__(self, index: int | slice) -> VllmRequest | list[VllmRequest]:
        chosen = self._scheduler.running[index]
        if isinstance(index, slice):
            return [self._views[request.request_id] for request in chosen]
        return self._views[chosen.request_id]

    def __iter__(self) -> Iterator[VllmRequest]:
        views = self._views
        return iter([views[request.request_id] for request in self._scheduler.running])
