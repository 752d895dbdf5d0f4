"""The glue between a vLLM v1 scheduler and the controller: where each event and question hooks in.

Victims are carried out by moving them to the tail of `running` before the engine schedules, so its own tail
rule preempts exactly those and has nothing to undo; admissions by the order of the waiting queue; the
reserve by the engine's own watermark, for the length of one scheduling pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bidkv.adapters.vllm.engine_view import VllmEngine
from bidkv.adapters.vllm.queues import PriorityWaitingQueue, WaitingQueue
from bidkv.adapters.vllm.views import VllmRequest
from bidkv.control import Controller

_QUEUES = ("waiting", "skipped_waiting", "kv_holding_waiting")
"""Every queue a version of vLLM keeps; the policy orders the first, the others hold special cases."""


class Glue:
    """One scheduler's attachment to one controller."""

    def __init__(self, scheduler: Any, controller: Controller, clock: Callable[[], float]) -> None:
        self.controller = controller
        self._scheduler = scheduler
        self._manager = scheduler.kv_cache_manager
        self._own_watermark: int = self._manager.watermark_blocks
        self._by_priority: bool = scheduler.policy.value == "priority"
        self._in_pass = False
        self._set_aside = False
        self._choice: Any = None
        self._popped: list[Any] = []
        self._raised: list[Any] = []
        self.floor_blocks = self._own_watermark
        self.gate_shut = False
        self._ordered = self._replace_queues()
        self.engine = VllmEngine(scheduler, self._waiting_requests, clock)
        self.on_victims: Callable[[Sequence[VllmRequest]], None] | None = None

    def _replace_queues(self) -> WaitingQueue:
        kind = PriorityWaitingQueue if self._by_priority else WaitingQueue
        self._queues = {name: kind(self) for name in _QUEUES if hasattr(self._scheduler, name)}
        for name, queue in self._queues.items():
            setattr(self._scheduler, name, queue)
        return self._queues["waiting"]

    def _waiting_requests(self) -> list[Any]:
        return [request for queue in self._queues.values() for request in queue]

    # --- around one scheduling pass --------------------------------------------------------------
    def begin_pass(self) -> None:
        """Name the victims of the coming step and open the doors."""
        self.engine.begin_step()
        victims = self.controller.before_step(self.engine)
        if victims:
            self._move_to_tail(victims)
        self._choice = None
        self._set_aside = False
        self._in_pass = True

    def end_pass(self, scheduled: Mapping[str, int]) -> None:
        """Leave the scheduler as the engine knows it.

        Args:
            scheduled: tokens of each request in the pass, which the engine counts as computed by now.
        """
        self._in_pass = False
        self._tell_admissions(scheduled)
        self._manager.watermark_blocks = self._own_watermark
        while self._raised:
            self._lower(self._raised[-1])

    def _move_to_tail(self, victims: Sequence[Any]) -> None:
        """running = survivors in order, then the victims, first choice last: the engine pops from the end."""
        scheduler = self._scheduler
        can_be_freed = getattr(scheduler, "_request_blocks_can_be_freed", None)
        chosen = [view.request for view in victims]
        if can_be_freed is not None:
            # The engine stops its pass at a tail whose blocks a KV transfer still pins.
            chosen = [request for request in chosen if can_be_freed(request)]
        gone = set(chosen)
        survivors = [request for request in scheduler.running if request not in gone]
        scheduler.running[:] = survivors + chosen[::-1]
        if self._by_priority and chosen:
            # There the engine pops the largest (priority, arrival): first choice largest, until preempted.
            above = max(request.priority for request in scheduler.running) + 1
            for rank, request in enumerate(reversed(chosen)):
                request.priority = above + rank
            self._raised = chosen
        if self.on_victims is not None:
            self.on_victims(victims)

    def _lower(self, request: Any) -> None:
        request.priority = self.engine.view_of(request).priority
        self._raised.remove(request)

    # --- admission -------------------------------------------------------------------------------
    def next_request(self, queue: WaitingQueue) -> Any | None:
        """Who of `queue` enters now: the policy's choice at the moment of admission, or the queue's head."""
        if not self._in_pass:
            return queue.head()
        self._tell_admissions({})
        if queue is not self._ordered or len(self._scheduler.running) >= self._scheduler.max_num_running_reqs:
            return queue.head()
        control = self.controller
        if control.keeps_reserve:
            self.floor_blocks = max(self._own_watermark, control.reserve_blocks(self.engine))
            self._manager.watermark_blocks = self.floor_blocks
        if not control.chooses_next or self._set_aside:
            return queue.head()
        if self._choice is not None and self._choice in queue:
            return self._choice
        chosen: Any = control.select_next(self.engine)
        # None of a policy that has just failed means that the engine goes on alone.
        self.gate_shut = chosen is None and control.chooses_next
        if chosen is None:
            return None if self.gate_shut else queue.head()
        if chosen.request not in queue:
            # The engine set it aside (a grammar, a KV transfer): its own order holds for this pass.
            self._set_aside = True
            return queue.head()
        self._choice = chosen.request
        return self._choice

    def left_queue(self, request: Any) -> None:
        """`request` was popped; whether it runs is known when the engine asks for the next one."""
        self._choice = None
        if self._in_pass:
            self._popped.append(request)

    def _tell_admissions(self, scheduled: Mapping[str, int]) -> None:
        if not self._popped:
            return
        popped, self._popped = self._popped, []
        for request in popped:
            if request.status.name == "RUNNING":
                view = self.engine.view_of(request)
                self.engine.admitted(view)
                cached_tokens = request.num_computed_tokens - scheduled.get(request.request_id, 0)
                self.controller.on_admit(view, self.engine, cached_tokens)

    # --- events ----------------------------------------------------------------------------------
    def arrived(self, request: Any) -> None:
        """`request` waits: new, or a streaming session's next turn."""
        self.controller.on_arrival(self.engine.view_of(request), self.engine)

    def about_to_preempt(self, request: Any) -> None:
        """The engine preempts `request` now: it must go back to the queue under its own priority."""
        if request in self._raised:
            self._lower(request)

    def preempted(self, request: Any, lost_tokens: int) -> None:
        """`request` was preempted."""
        view = self.engine.view_of(request)
        self.engine.preempted(view)
        self.controller.on_preempt(view, lost_tokens, self.engine)

    def took_turn(self, request: Any) -> None:
        """A streaming session's request has its next turn's prompt and cap."""
        self.engine.view_of(request).reread()

    def finished(self, request: Any) -> None:
        """`request` left the engine."""
        view = self.engine.view_of(request)
        completed = request.status.name not in ("FINISHED_ABORTED", "FINISHED_ERROR", "FINISHED_IGNORED")
        self.controller.on_finish(view, self.engine, completed=completed)
        self.engine.finished(view)


if TYPE_CHECKING:

    class _Scheduler:
        """The methods of vLLM's scheduler that the mixin extends."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def schedule(self, *args: Any, **kwargs: Any) -> Any: ...
        def _enqueue_waiting_request(self, request: Any) -> None: ...
        def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None: ...
        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _update_request_as_session(self, session: Any, *args: Any, **kwargs: Any) -> Any: ...

else:
    _Scheduler = object


class BidKVSchedulerMixin(_Scheduler):
    """Goes before vLLM's `Scheduler` or `AsyncScheduler` in a class's bases."""

    bidkv_clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from bidkv.adapters.vllm.service import Service

        self.bidkv = Service.from_environment(self, self.bidkv_clock)
        self._bidkv_glue = self.bidkv.glue

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule one step with the policy's victims, admissions and reserve."""
        glue = self._bidkv_glue
        self.bidkv.poll()
        glue.begin_pass()
        output = None
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            glue.end_pass({} if output is None else output.num_scheduled_tokens)
        glue.engine.scheduled(output.total_num_scheduled_tokens)
        glue.controller.after_step(glue.engine, output.total_num_scheduled_tokens)
        return output

    def _enqueue_waiting_request(self, request: Any) -> None:
        super()._enqueue_waiting_request(request)
        self._bidkv_glue.arrived(request)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        lost_tokens = request.num_computed_tokens
        self._bidkv_glue.about_to_preempt(request)
        super()._preempt_request(request, *args, **kwargs)
        self._bidkv_glue.preempted(request, lost_tokens)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._free_request(request, *args, **kwargs)
        self._bidkv_glue.finished(request)
        return result

    def _update_request_as_session(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._update_request_as_session(session, *args, **kwargs)
        self._bidkv_glue.took_turn(session)
        return result
