"""The glue between a vLLM v1 scheduler and the controller: where each event and question is carried over.

Victims are preempted by moving them to the tail of `running` before the engine schedules, so that its own
tail rule takes exactly those and has nothing to undo. Admissions follow the order of the waiting queue. The
reserve is the engine's own watermark, raised for the length of one scheduling pass.

Every entry point is guarded. The first error of this project's own code detaches the glue for good: what it
changed for the pass is put back, the error is logged once and counted, and vLLM continues by its own rules.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

from bidkv.adapters.vllm.engine_view import VllmEngineView
from bidkv.adapters.vllm.expectations import QUEUES
from bidkv.adapters.vllm.prefix_cache import FreeQueueError, VllmPrefixCache, read_unsupported_cache
from bidkv.adapters.vllm.queues import PriorityWaitingQueue, WaitingQueue
from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.control import Controller
from bidkv.protocol.read_only import write_facts

logger = logging.getLogger("bidkv")


P = ParamSpec("P")


class DetachedGlue:
    """Stands in for a glue that could not be attached: vLLM keeps its own rules and nothing is reported."""

    attached = False
    num_failures = 1

    def begin_pass(self) -> None:
        """A step is about to be scheduled."""

    def end_pass(self, output: Any | None) -> None:
        """A step was scheduled."""

    def arrived(self, request: Any) -> None:
        """`request` waits."""

    def about_to_preempt(self, request: Any) -> None:
        """The engine preempts `request` now."""

    def preempted(self, request: Any, lost_tokens: int) -> None:
        """`request` was preempted."""

    def took_turn(self, request: Any) -> None:
        """A streaming session's request has its next turn."""

    def finished(self, request: Any) -> None:
        """`request` left the engine."""

    def cache_was_reset(self) -> None:
        """The engine threw its whole prefix cache away."""


def _guarded(
    entry: Callable[Concatenate[VllmGlue, P], None],
) -> Callable[Concatenate[VllmGlue, P], None]:
    """Keep an entry point's errors from the engine; once the glue is detached it does nothing."""

    @functools.wraps(entry)
    def call(glue: VllmGlue, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if glue.attached:
            try:
                entry(glue, *args, **kwargs)
            except Exception:
                glue.give_up()

    return call


class VllmGlue:
    """One scheduler's attachment to one controller.

    Args:
        scheduler: vLLM's scheduler, fully made.
        controller: asks the policy.
        clock: seconds, monotonic.
        watches_sessions: whether sessions that no client names are found under every policy, for metrics;
            else only under a policy that drops idle ones.

    Attributes:
        attached: False once an error of this project's own code has detached it.
        num_failures: errors of this project's own code that reached the guard; 0 or 1.
        floor_blocks: blocks the last admission had to leave free.
        gate_shut: whether the policy admitted nothing when it was asked last.
        before_pass: called at the start of every scheduling pass, or None.
        on_victims: called with the victims of a step, first choice first, or None.
    """

    def __init__(
        self,
        scheduler: Any,
        controller: Controller,
        clock: Callable[[], float],
        *,
        watches_sessions: bool = False,
    ) -> None:
        self.controller = controller
        self.attached = True
        self.num_failures = 0
        self._scheduler = scheduler
        self._manager = scheduler.kv_cache_manager
        self._own_watermark: int = self._manager.watermark_blocks
        self._by_priority: bool = scheduler.policy.value == "priority"
        self._in_pass = False
        self._set_aside = False
        self._choice: Any = None
        self._popped: list[Any] = []
        # Requests whose priority is raised until they are preempted or the pass ends, and their own priority.
        self._raised: dict[Any, int] = {}
        self.floor_blocks = self._own_watermark
        self.gate_shut = False
        self.engine = VllmEngineView(scheduler, self._waiting_requests, clock)
        self.before_pass: Callable[[], None] | None = None
        self.on_victims: Callable[[Sequence[VllmRequest]], None] | None = None
        self._own_queues: dict[str, Any] = {}
        self._queues: dict[str, WaitingQueue] = {}
        self._track_sessions(watches_sessions)
        # Last, so that an error above leaves the scheduler untouched.
        self._replace_queues()

    def _track_sessions(self, watches: bool) -> None:
        """Keep the session accounts where the prefix cache is one that is understood."""
        reason = read_unsupported_cache(self._scheduler)
        if reason is None:
            try:
                cache = VllmPrefixCache(self._scheduler)
                sessions = self.controller.track_sessions(cache, find_by_prefix=watches or None)
                write_facts(self.engine, cache=cache, sessions=sessions)
                return
            except (FreeQueueError, ImportError) as error:
                reason = str(error)
        logger.info("bidkv: sessions are left to vLLM's own prefix cache: %s", reason)

    def _replace_queues(self) -> None:
        kind = PriorityWaitingQueue if self._by_priority else WaitingQueue
        names = [name for name in QUEUES if hasattr(self._scheduler, name)]
        self._own_queues = {name: getattr(self._scheduler, name) for name in names}
        self._queues = {name: kind(self) for name in names}
        self._ordered = self._queues["waiting"]
        for name, queue in self._queues.items():
            setattr(self._scheduler, name, queue)

    def _waiting_requests(self) -> list[Any]:
        return [request for queue in self._queues.values() for request in queue]

    # --- the guard -------------------------------------------------------------------------------
    def give_up(self) -> None:
        """Detach because of an error of this project's own code; call from an `except` block.

        Safe at any moment of a scheduling pass: it uses only what was written down before the pass changed
        anything. The waiting queues stay until the pass is over, handing out the engine's own head.
        """
        self.attached = False
        self.num_failures += 1
        logger.exception("bidkv: error in the vLLM adapter; vLLM continues by its own rules until restarted")
        self._undo_pass()
        self._popped.clear()
        self.gate_shut = False
        self.floor_blocks = self._own_watermark
        if not self._in_pass:
            self._return_queues()
        try:
            self.controller.disable()
        except Exception:
            logger.exception("bidkv: the controller could not be switched off; it is not asked again")

    def _undo_pass(self) -> None:
        self._manager.watermark_blocks = self._own_watermark
        while self._raised:
            request, priority = self._raised.popitem()
            request.priority = priority

    def _return_queues(self) -> None:
        """Give vLLM its own queues back, with the same requests in the same order."""
        queues, self._queues = self._queues, {}
        for name, queue in queues.items():
            own = self._own_queues[name]
            for request in queue:
                own.add_request(request)
            setattr(self._scheduler, name, own)

    # --- around one scheduling pass --------------------------------------------------------------
    @_guarded
    def begin_pass(self) -> None:
        """Name the victims of the coming step and let the policy choose admissions."""
        if self.before_pass is not None:
            self.before_pass()
        self.engine.begin_step()
        victims = self.controller.before_step(self.engine)
        if victims:
            self._move_to_tail(victims)
        self._choice = None
        self._set_aside = False
        self._in_pass = True

    def end_pass(self, output: Any | None) -> None:
        """Leave the scheduler as the engine knows it.

        Args:
            output: what the engine scheduled; its tokens count as computed by now. None when it raised.
        """
        was_in_pass, self._in_pass = self._in_pass, False
        if not self.attached:
            if was_in_pass and self._queues:
                self._return_queues()
            return
        self._finish_pass(output)

    @_guarded
    def _finish_pass(self, output: Any | None) -> None:
        self._tell_admissions({} if output is None else output.num_scheduled_tokens)
        self._undo_pass()
        if output is not None:
            tokens = output.total_num_scheduled_tokens
            self.engine.scheduled(tokens)
            self.controller.after_step(self.engine, tokens)

    def _move_to_tail(self, victims: Sequence[Any]) -> None:
        """running = survivors in order, then the victims, first choice last: the engine pops from the end."""
        scheduler = self._scheduler
        chosen = [view._request for view in victims]
        gone = set(chosen)
        survivors = [request for request in scheduler.running if request not in gone]
        scheduler.running[:] = survivors + chosen[::-1]
        if self._by_priority and chosen:
            # There the engine pops the largest (priority, arrival): first choice largest, until preempted.
            above = max(request.priority for request in scheduler.running) + 1
            self._raised = {request: request.priority for request in chosen}
            for rank, request in enumerate(reversed(chosen)):
                request.priority = above + rank
        if self.on_victims is not None:
            self.on_victims(victims)

    # --- admission -------------------------------------------------------------------------------
    def next_request(self, queue: WaitingQueue) -> Any | None:
        """Return the member of `queue` to admit now: the policy's choice, or the queue's head."""
        if not self._in_pass or not self.attached:
            return queue.head()
        try:
            return self._choose_next(queue)
        except Exception:
            self.give_up()
            return queue.head()

    def _choose_next(self, queue: WaitingQueue) -> Any | None:
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
        if chosen._request not in queue:
            # The engine set it aside (a grammar, a KV transfer): its own order holds for this pass.
            self._set_aside = True
            return queue.head()
        self._choice = chosen._request
        return self._choice

    def left_queue(self, request: Any) -> None:
        """`request` was popped; whether it runs is known when the engine asks for the next one."""
        self._choice = None
        if self._in_pass and self.attached:
            self._popped.append(request)

    def _tell_admissions(self, scheduled: Mapping[str, int]) -> None:
        if not self._popped:
            return
        popped, self._popped = self._popped, []
        restoring = self.engine.restoring
        for request in popped:
            if request.status.name == "RUNNING":
                view = self.engine.get_view(request)
                self.engine.admitted(view)
                cached_tokens = request.num_computed_tokens - scheduled.get(request.request_id, 0)
                if restoring is None:
                    write_facts(view, num_cached_tokens=cached_tokens)
                else:  # a connector may have loaded them: `lost_token_price` tells what that cost
                    restoring.returned(request, cached_tokens, self.engine)
                self.controller.on_admit(view, self.engine, cached_tokens)
            elif restoring is not None and request.status.name == "WAITING_FOR_REMOTE_KVS":
                restoring.loads(request)

    # --- events ----------------------------------------------------------------------------------
    @_guarded
    def arrived(self, request: Any) -> None:
        """`request` waits: new, or a streaming session's next turn."""
        engine, view = self.engine, self.engine.get_view(request)
        self.controller.on_arrival(view, engine)
        if engine.restoring is not None and engine.sessions is not None:
            session = engine.sessions.session_for(view)
            if session is not None:
                engine.restoring.comes_back(request, session, view.num_prompt_tokens, engine)

    @_guarded
    def about_to_preempt(self, request: Any) -> None:
        """The engine preempts `request` now: it must go back to the queue under its own priority."""
        if request in self._raised:
            request.priority = self._raised.pop(request)

    @_guarded
    def preempted(self, request: Any, lost_tokens: int) -> None:
        """`request` was preempted."""
        view = self.engine.get_view(request)
        self.engine.preempted(view)
        if self.engine.restoring is not None:
            self.engine.restoring.lost(request, lost_tokens, self.engine)
        self.controller.on_preempt(view, lost_tokens, self.engine)

    @_guarded
    def took_turn(self, request: Any) -> None:
        """A streaming session's request has its next turn's prompt and cap."""
        self.engine.get_view(request).reread()

    @_guarded
    def cache_was_reset(self) -> None:
        """The engine threw its whole prefix cache away."""
        self.controller.on_cache_reset()

    @_guarded
    def finished(self, request: Any) -> None:
        """`request` left the engine."""
        view = self.engine.get_view(request)
        completed = request.status.name not in ("FINISHED_ABORTED", "FINISHED_ERROR", "FINISHED_IGNORED")
        self.controller.on_finish(view, self.engine, completed=completed)
        if self.engine.restoring is not None:
            self.engine.restoring.left(request)
        self.engine.finished(view)
