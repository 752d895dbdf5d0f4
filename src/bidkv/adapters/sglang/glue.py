"""The glue between SGLang's scheduler and the controller: events go one way, answers the other.

Nothing here decides. Every answer of the controller becomes something that SGLang's own code does: an order
for its retraction loop, a position in its queue, a refusal that it could give itself. Parallel tensors are
never touched: `running_batch.reqs` keeps its order. Only the queue, a plain list, is rearranged for the
length of one scheduling pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from bidkv.adapters.sglang.engine_view import SglangEngineView
from bidkv.adapters.sglang.prefix_cache import SglangPrefixCache, read_unsupported_cache
from bidkv.adapters.sglang.request_view import SglangRequest
from bidkv.control import Controller
from bidkv.protocol.read_only import write_facts

_RECONCILE_EVERY = 256
"""Scheduling passes between two searches for requests that left without a hook being called: rare enough to
cost nothing, often enough that they do not pile up."""


class SglangGlue:
    """Carries events to a controller and its answers back; one per scheduler process.

    Args:
        scheduler: SGLang's `Scheduler`, fully made.
        engine: its view.
        controller: asks the policy.
        on_arrival: called when a request has arrived, before the controller is told, or None.
        watches_sessions: whether sessions that no client names are found under every policy, for metrics;
            else only under a policy that drops idle ones.

    Attributes:
        on_pass: called at the end of every scheduling pass with whether it made a batch, or None.
        no_retention: why SGLang decides alone which session keeps its KV between two turns; None where the
            policy does.
    """

    def __init__(
        self,
        scheduler: Any,
        engine: SglangEngineView,
        controller: Controller,
        *,
        on_arrival: Callable[[], None] | None = None,
        watches_sessions: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.engine = engine
        self.controller = controller
        self.on_pass: Callable[[bool], None] | None = None
        self._on_arrival = on_arrival
        self._lost: dict[str, int] = {}
        self._passes = 0
        self._queue_before: list[Any] | None = None
        self.no_retention = read_unsupported_cache(scheduler)
        if self.no_retention is None:
            cache = SglangPrefixCache(scheduler)
            sessions = controller.track_sessions(cache, find_by_prefix=watches_sessions or None)
            write_facts(engine, cache=cache, sessions=sessions)

    # --- events ----------------------------------------------------------------------------------
    def queued(self, req: Any) -> None:
        """`req` was put into the queue: it arrived, or it was preempted just now."""
        queue = self.scheduler.waiting_queue
        if not queue or queue[-1] is not req:
            return  # SGLang refused it, or keeps it in another queue
        lost = self._lost.pop(req.rid, None)
        if not self.engine.knows(req):
            if self._on_arrival is not None:
                self._on_arrival()
            self.controller.on_arrival(self.engine.get_view(req), self.engine)
            return
        view = self.engine.get_view(req)
        if not view.waiting:
            write_facts(view, waiting=True)
            if lost is None:  # retracted by no hook of ours: an operator paused the engine
                lost = view.num_prompt_tokens + view.num_output_tokens - 1
            self.controller.on_preempt(view, lost, self.engine)

    def admitted(self, req: Any) -> None:
        """`req` was taken into the coming prefill batch."""
        view = self.engine.get_view(req)
        self.engine.admitted(view)
        write_facts(view, num_cached_tokens=int(req.prefix_len))
        self.controller.on_admit(view, self.engine, cached_tokens=view.num_cached_tokens)

    def computed_tokens(self, reqs: Sequence[Any]) -> dict[str, int]:
        """Computed tokens of those that may be preempted now; they are gone afterwards."""
        return {req.rid: self.engine.get_view(req).num_computed_tokens for req in reqs}

    def preempted(self, reqs: Sequence[Any], computed: dict[str, int]) -> None:
        """`reqs` were preempted and will be queued in a moment."""
        for req in reqs:
            self._lost[req.rid] = computed[req.rid]

    def left(self, req: Any, *, completed: bool) -> None:
        """`req` left the engine."""
        if not self.engine.knows(req):
            return
        view = self.engine.get_view(req)
        write_facts(view, waiting=False)
        self._lost.pop(req.rid, None)
        self.controller.on_finish(view, self.engine, completed=completed)
        self.engine.forget(view)

    def processed(self, batch: Any) -> None:
        """The results of `batch` are in: some of it may have finished."""
        for req in batch.reqs:
            if req.finished():
                self.left(req, completed=not _aborted(req))

    def scheduled(self, batch: Any) -> None:
        """A pass ended with `batch` to run, or with None."""
        self.engine.pass_ended()
        self.restore_queue()
        self._passes += 1
        if batch is not None:
            decoding = batch.forward_mode.is_decode()
            tokens = len(batch.reqs) if decoding else int(batch.extend_num_tokens)
            self.engine.ran(tokens)
            self.controller.after_step(self.engine, tokens)
            if self.controller.drops_idle:
                self.controller.drop_idle(self.engine)
        if self._passes % _RECONCILE_EVERY == 0:
            self._reconcile(batch)
        if self.on_pass is not None:
            self.on_pass(batch is not None)

    def cache_reset(self) -> None:
        """SGLang threw its prefix cache away."""
        self.controller.on_cache_reset()

    def _reconcile(self, batch: Any) -> None:
        scheduler = self.scheduler
        alive = {id(req) for req in scheduler.waiting_queue}
        alive.update(id(req) for req in (() if batch is None else batch.reqs))
        alive.update(id(req) for req in scheduler.collect_inflight_reqs())
        # With overlap a request whose last token is being computed is in no batch but that of its result.
        for launched, *_ in getattr(scheduler, "result_queue", ()):
            alive.update(id(req) for req in launched.reqs)
        alive.update(id(req) for req in scheduler.grammar_manager.grammar_queue)
        alive.add(id(scheduler.chunked_req))
        for view in self.engine.known():
            if id(view._req) not in alive:
                self.left(view._req, completed=view._req.finished() and not _aborted(view._req))

    # --- victims ---------------------------------------------------------------------------------
    def retraction_order(self, reqs: Sequence[Any], upstream: Sequence[int]) -> list[int]:
        """Return indices of `reqs` as SGLang's retraction loop wants them: it retracts from the end.

        The policy's victims come last, its first choice very last; all others keep SGLang's own order.
        Beam groups are never offered: SGLang cannot retract them, only abort them.
        """
        engine = self.engine
        candidates = engine.sort_by_admission(req for req in reqs if req.beam_group is None)
        if not self.controller.chooses_victims or len(candidates) < 2:
            return list(upstream)
        need = max(1, engine.block_demand(frozenset()) - engine.free_blocks)
        victims = self.controller.rank_victims(engine, candidates, need)
        index = {req.rid: i for i, req in enumerate(reqs)}
        last = [index[victim.request_id] for victim in reversed(victims)]
        chosen = set(last)
        return [i for i in upstream if i not in chosen] + last

    def preemption_times(self, adder: Any, req: Any) -> list[tuple[Any, float]]:
        """Return (request, queue-entry time) pairs that make SGLang preempt the policy's choice for `req`.

        SGLang preempts the lowest priority first and, among equals, the request that entered the queue last;
        it counts by its own rule how many it preempts. Priorities are the operator's and stay. The entry time
        decides among equals, so it carries the choice; SGLang reads it for nothing else in between.
        """
        engine = self.engine
        candidates = engine.sort_by_admission(
            other for other in adder.running_batch.reqs if _preemptible(adder, other, req, engine)
        )
        if not self.controller.chooses_victims or len(candidates) < 2:
            return []
        # SGLang decides how many it preempts, so all of them are ranked.
        victims = self.controller.rank_victims(engine, candidates, engine.num_blocks)
        latest = max(view._req.time_stats.wait_queue_entry_time for view in candidates)
        first = latest + len(victims)
        return [(cast(SglangRequest, victim)._req, first - rank) for rank, victim in enumerate(victims)]

    # --- admissions ------------------------------------------------------------------------------
    def arrange_queue(self, queue: list[Any], running_batch: Any) -> None:
        """Put the policy's choice at the head of SGLang's freshly sorted queue."""
        self.engine.runs_now(running_batch)
        self._queue_before = None
        choice = self._choice()
        if choice is not None and queue and queue[0] is not choice._req:
            self._move(queue, choice._req, 0)

    def may_enter(self, req: Any) -> bool:
        """Whether SGLang may try to admit `req` now."""
        choice = self._choice()
        return not self.controller.chooses_next or (choice is not None and choice._req is req)

    def keeps_reserve(self, adder: Any, req: Any) -> bool:
        """Whether admitting `req` leaves the policy's reserve free."""
        if not self.controller.keeps_reserve or not self.engine.running:
            return True
        reserve = self.controller.reserve_blocks(self.engine)
        if reserve == 0:
            return True
        tree = adder.tree_cache
        # The prefix it shares counts as evictable until it is locked.
        lock = tree.lock(req.last_node)
        try:
            free = int(adder.cur_rem_tokens)
        finally:
            tree.unlock(lock)
        extend = len(req.full_untruncated_fill_ids) - req.prefix_len
        return bool(free - adder.ceil_paged_tokens(extend) >= reserve * self.engine.block_size)

    def arrange_after(self, req: Any) -> None:
        """After `req` entered, put the next choice right behind it in the queue SGLang is walking through."""
        choice = self._choice()
        queue = self.scheduler.waiting_queue
        if choice is None or choice._req is req:
            return
        position = queue.index(req) + 1
        # A choice SGLang has passed over in this walk cannot come again; the gate then ends the pass.
        if queue.index(choice._req) > position:
            self._move(queue, choice._req, position)

    def _choice(self) -> SglangRequest | None:
        """The policy's next request; the controller asks it once after every event."""
        if not self.controller.chooses_next or self.engine.num_waiting == 0:
            return None
        return cast("SglangRequest | None", self.controller.select_next(self.engine))

    def _move(self, queue: list[Any], req: Any, position: int) -> None:
        if self._queue_before is None:
            self._queue_before = list(queue)
        queue.remove(req)
        queue.insert(position, req)

    def restore_queue(self) -> None:
        """Give the queue its own order back; requests that joined meanwhile stay behind."""
        before = self._queue_before
        if before is None:
            return
        self._queue_before = None
        rank = {id(req): i for i, req in enumerate(before)}
        self.scheduler.waiting_queue.sort(key=lambda req: rank.get(id(req), len(rank)))


def _aborted(req: Any) -> bool:
    return bool(req.finished_reason.to_json().get("type") == "abort")


def _preemptible(adder: Any, running: Any, req: Any, engine: SglangEngineView) -> bool:
    if running.finished() or running in adder.preempt_list:
        return False
    less_important = engine.get_view(running).priority - engine.get_view(req).priority
    return bool(less_important > adder.priority_scheduling_preemption_threshold)
