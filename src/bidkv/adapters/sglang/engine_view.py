"""SGLang's scheduler as a policy sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bidkv.adapters.sglang.memory import available_tokens, freed_tokens
from bidkv.adapters.sglang.prefix_cache import SglangPrefixCache
from bidkv.adapters.sglang.request_view import SglangRequest
from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.read_only import seal, write_facts
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable


class _Pass:
    """What the view notes pass by pass; apart, because the view itself is sealed.

    Attributes:
        steps: batches that ran so far.
        scheduled_tokens: their tokens.
        admissions: so far.
        batch: what runs until the pass ends; None: SGLang's own attribute says so.
        continued: the request whose prompt is prefilled in chunks, likewise.
    """

    __slots__ = ("admissions", "batch", "continued", "scheduled_tokens", "steps")

    def __init__(self) -> None:
        self.steps = self.scheduled_tokens = self.admissions = 0
        self.batch: Any = None
        self.continued: Any = None


class SglangEngineView(EngineViewDefaults):
    """An SGLang scheduler as an `EngineView`; one object for its whole life.

    Args:
        scheduler: SGLang's `Scheduler`.
        clock: seconds, monotonic, the same on every rank.

    Attributes:
        low_values_first: whether SGLang takes a lower priority value for the more important one.
        max_request_tokens: prompt and output tokens that one request may have.
        max_pool_tokens: tokens of the KV pool.
        cache: the prefix tree where sessions are tracked, else None.
    """

    __slots__ = (
        "_clock",
        "_entered",
        "_pass",
        "_scheduler",
        "_views",
        "block_size",
        "cache",
        "low_values_first",
        "max_num_batched_tokens",
        "max_num_seqs",
        "max_pool_tokens",
        "max_request_tokens",
        "num_blocks",
        "prefix_caching",
        "sessions",
    )

    def __init__(self, scheduler: Any, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._views: dict[str, SglangRequest] = {}
        self._entered: list[SglangRequest] = []
        self._pass = _Pass()
        self.low_values_first = bool(scheduler.schedule_low_priority_values_first)
        self.max_request_tokens = int(scheduler.max_req_len)
        self.max_pool_tokens = int(scheduler.max_total_num_tokens)
        self.block_size = int(scheduler.page_size)
        self.num_blocks = self.max_pool_tokens // self.block_size
        self.max_num_seqs = int(scheduler.max_running_requests)
        self.max_num_batched_tokens = int(scheduler.chunked_prefill_size or scheduler.max_prefill_tokens)
        self.prefix_caching = bool(scheduler.tree_cache.supports_prefix_sharing())
        self.sessions: SessionTable | None = None
        self.cache: SglangPrefixCache | None = None
        seal(self)

    # --- the requests ----------------------------------------------------------------------------
    def get_view(self, req: Any) -> SglangRequest:
        """Return the view of `req`, made when first asked for."""
        view = self._views.get(req.rid)
        if view is None or view._req is not req:
            view = SglangRequest(req, self)
            self._views[req.rid] = view
        return view

    def knows(self, req: Any) -> bool:
        """Whether `req` was seen before."""
        view = self._views.get(req.rid)
        return view is not None and view._req is req

    def known(self) -> Sequence[SglangRequest]:
        """Every live request, in order of arrival."""
        return list(self._views.values())

    def admitted(self, view: SglangRequest) -> None:
        """Note that `view` left the queue."""
        self._pass.admissions += 1
        self._entered.append(view)
        write_facts(view, admission=self._pass.admissions, waiting=False)

    def pass_ended(self) -> None:
        """Note that SGLang took those admitted in this pass off its queue, and knows what runs."""
        self._entered.clear()
        self._pass.batch = self._pass.continued = None

    def ran(self, tokens: int) -> None:
        """Note that a batch of `tokens` tokens was decided."""
        self._pass.steps += 1
        self._pass.scheduled_tokens += tokens

    def forget(self, view: SglangRequest) -> None:
        """Note that `view` left the engine."""
        self._views.pop(view.request_id, None)

    def runs_now(self, batch: Any) -> None:
        """Until the pass ends `batch` is what runs: SGLang sets its own attribute only after the pass."""
        self._pass.batch = batch
        # SGLang clears its own attribute when the pass takes the last chunk of this request.
        self._pass.continued = self._scheduler.chunked_req

    @property
    def batch(self) -> Any:
        """The batch that runs."""
        batch = self._pass.batch
        return self._scheduler.running_batch if batch is None else batch

    def sort_by_admission(self, reqs: Iterable[Any]) -> list[SglangRequest]:
        """Views of `reqs`, first admitted first; SGLang permutes its own list when it retracts."""
        views = [self.get_view(req) for req in reqs]
        views.sort(key=lambda view: view.admission)
        return views

    # --- EngineView ------------------------------------------------------------------------------
    @property
    def now_s(self) -> float:
        """Seconds on the adapter's clock."""
        return self._clock()

    @property
    def free_blocks(self) -> int:
        """Pages the next allocation can get."""
        scheduler = self._scheduler
        return available_tokens(scheduler.token_to_kv_pool_allocator, scheduler.tree_cache) // self.block_size

    @property
    def running(self) -> Sequence[SglangRequest]:
        """The running requests, first admitted first, including those admitted in this pass; O(running)."""
        running = {req.rid: req for req in self.batch.reqs if not req.finished()}
        running.update((view.request_id, view._req) for view in self._entered)
        for chunked in (self._pass.continued, self._scheduler.chunked_req):
            if chunked is not None:
                running[chunked.rid] = chunked
        return self.sort_by_admission(running.values())

    @property
    def num_running(self) -> int:
        """Requests that run; O(running)."""
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue; those admitted in the current pass are still in SGLang's list."""
        return len(self._scheduler.waiting_queue) - len(self._entered)

    @property
    def num_prefilling(self) -> int:
        """1 while a prompt is prefilled in chunks, else 0."""
        return 0 if self._scheduler.chunked_req is None else 1

    @property
    def num_steps(self) -> int:
        """Batches so far."""
        return self._pass.steps

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens of these batches."""
        return self._pass.scheduled_tokens

    def waiting(self) -> Sequence[SglangRequest]:
        """The queue in SGLang's own order; O(waiting)."""
        views = (self.get_view(req) for req in self._scheduler.waiting_queue)
        return [view for view in views if view.waiting]

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` is in the queue."""
        view = self._views.get(request.request_id)
        return view is request and view.waiting

    def cached_tokens(self, request: RequestView) -> int:
        """Leading tokens of a waiting request that are cached now.

        Where sessions are not tracked: what SGLang found when it sorted its queue last; 0 before it did.
        """
        if self.cache is not None:
            return self.cache.cached_tokens(request)
        return int(getattr(self._views[request.request_id]._req, "num_matched_prefix_tokens", 0) or 0)

    def freed_blocks(self, request: RequestView) -> int:
        """Pages that retracting `request` would make available; O(depth of its prefix in the tree)."""
        req = self._views[request.request_id]._req
        return freed_tokens(req, self._scheduler.tree_cache, self.block_size) // self.block_size

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Pages the next decode step takes without the requests `excluded`; O(running)."""
        batch = self.batch
        indices = [i for i, req in enumerate(batch.reqs) if req.rid not in excluded]
        return int(batch.new_tokens_required_next_decode(indices)) // self.block_size
