"""The places in SGLang where this project attaches, and the check that it really did.

Every hook is registered with SGLang's own `HookRegistry`. None of them lets an error of this project into the
scheduler: the first one detaches the glue, is logged, and SGLang continues by its own rules.
"""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bidkv.adapters.sglang.expectations import BATCH, POLICY, RETRACTION_ORDER, SCHEDULER
from bidkv.adapters.sglang.glue import SglangGlue

logger = logging.getLogger("bidkv")


@dataclass(frozen=True, slots=True)
class Target:
    """One attribute of SGLang and the function put around it; `kind` names a `HookType`."""

    path: str
    kind: str
    function: Callable[..., Any]


class Hooks:
    """All hooks of one process.

    Args:
        attach: makes the glue for a scheduler that has just been made, or returns None to stay out.
        on_give_up: called once when an error of this adapter made it drop out.
    """

    def __init__(
        self,
        attach: Callable[[Any], SglangGlue | None],
        on_give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.glue: SglangGlue | None = None
        self._attach = attach
        self._on_give_up = on_give_up
        self.targets = (
            Target(f"{SCHEDULER}.__init__", "AFTER", self.scheduler_made),
            Target(f"{SCHEDULER}._add_request_to_queue", "AFTER", self.request_queued),
            Target(f"{SCHEDULER}._release_aborted_request", "AFTER", self.request_aborted),
            Target(f"{SCHEDULER}.process_batch_result", "AFTER", self.result_processed),
            Target(f"{SCHEDULER}.get_next_batch_to_run", "AFTER", self.pass_ended),
            Target(f"{SCHEDULER}.flush_cache", "AFTER", self.cache_flushed),
            Target(RETRACTION_ORDER, "AROUND", self.retraction_order),
            Target(f"{BATCH}.retract_decode", "AROUND", self.retract_decode),
            Target(f"{POLICY}.PrefillAdder.preempt_to_schedule", "AROUND", self.preempt_to_schedule),
            Target(f"{POLICY}.PrefillAdder.add_one_req", "AROUND", self.add_one_req),
            Target(f"{POLICY}.SchedulePolicy.calc_priority", "AFTER", self.queue_sorted),
        )

    def register(self) -> None:
        """Hand all hooks to SGLang, which applies them when its plugins are loaded."""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        for target in self.targets:
            HookRegistry.register(target.path, target.function, HookType[target.kind])

    def missing(self) -> list[str]:
        """Return the targets that do not lead through our function."""
        return [target.path for target in self.targets if not _leads_through(target)]

    def give_up(self) -> None:
        """Detach because of an error of this project's own code; call from an `except` block."""
        logger.exception("bidkv: error in the SGLang adapter; SGLang continues by its own rules")
        glue, self.glue = self.glue, None
        try:
            if glue is not None:
                glue.restore_queue()
            self._on_give_up()
        except Exception:
            logger.exception("bidkv: the SGLang adapter could not clear up; it is not asked again")

    # --- AFTER hooks: (result, self, ...) -> None keeps the result --------------------------------
    def scheduler_made(self, result: None, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        """A scheduler is complete: attach to it."""
        try:
            self.glue = self._attach(scheduler)
        except Exception:
            self.give_up()

    def request_queued(self, result: None, scheduler: Any, req: Any, is_retracted: bool = False) -> None:
        """A request was queued: a new one, or one that was preempted."""
        self._tell(lambda glue: glue.queued(req))

    def request_aborted(self, result: None, scheduler: Any, req: Any) -> None:
        """A request that was not running was aborted."""
        self._tell(lambda glue: glue.left(req, completed=False))

    def result_processed(self, result: None, scheduler: Any, batch: Any, batch_result: Any) -> None:
        """A batch's tokens were taken in."""
        self._tell(lambda glue: glue.processed(batch))

    def pass_ended(self, plan: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        """The next batch is decided."""
        self._tell(lambda glue: glue.scheduled(plan.batch_to_run))

    def cache_flushed(self, success: bool, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        """The prefix cache was thrown away, unless requests were alive."""
        if success:
            self._tell(lambda glue: glue.cache_reset())

    def queue_sorted(
        self,
        result: None,
        policy: Any,
        waiting_queue: list[Any],
        running_batch: Any = None,
        processed_tokens: int = 0,
    ) -> None:
        """SGLang has sorted its queue and will admit from its head."""
        self._tell(lambda glue: glue.arrange_queue(waiting_queue, running_batch))

    def _tell(self, event: Callable[[SglangGlue], None]) -> None:
        if self.glue is not None:
            try:
                event(self.glue)
            except Exception:
                self.give_up()

    # --- AROUND hooks: (original, ...) -----------------------------------------------------------
    def retraction_order(self, original: Callable[..., list[int]], reqs: list[Any]) -> list[int]:
        """Order the requests for retraction: SGLang takes indices from the end of the list."""
        upstream = original(reqs)
        glue = self.glue
        if glue is None:
            return upstream
        try:
            order = glue.retraction_order(reqs, upstream)
            if sorted(order) != list(range(len(reqs))):
                raise ValueError(f"retraction order {order} of {len(reqs)} requests is no permutation")
        except Exception:
            self.give_up()
            return upstream
        return order

    def retract_decode(self, original: Callable[..., Any], batch: Any) -> Any:
        """Tell the glue which batch is short of memory, and which requests were retracted."""
        computed = self._computed_tokens(batch.reqs)
        self._tell(lambda glue: glue.engine.runs_now(batch))
        result = original(batch)

        def took_place(glue: SglangGlue) -> None:
            retracted, _, aborted = result
            glue.preempted(retracted, computed)
            for req in aborted:
                glue.left(req, completed=False)

        self._tell(took_place)
        return result

    def _computed_tokens(self, reqs: list[Any]) -> dict[str, int]:
        computed: dict[str, int] = {}
        self._tell(lambda glue: computed.update(glue.computed_tokens(reqs)))
        return computed

    def preempt_to_schedule(self, original: Callable[..., bool], adder: Any, req: Any) -> bool:
        """Order the requests for preemption by a more important one, SGLang's second kind of victim."""
        glue = self.glue
        if glue is None:
            return original(adder, req)
        already = len(adder.preempt_list)
        computed: dict[str, int] = {}
        try:
            computed = glue.computed_tokens(adder.running_batch.reqs)
            chosen = glue.preemption_times(adder, req)
        except Exception:
            self.give_up()
            chosen = []
        before = [(other, other.time_stats.wait_queue_entry_time) for other, _ in chosen]
        for other, entry_time in chosen:
            other.time_stats.wait_queue_entry_time = entry_time
        try:
            preempted = original(adder, req)
        finally:
            for other, entry_time in before:
                other.time_stats.wait_queue_entry_time = entry_time
        self._tell(lambda glue: glue.preempted(adder.preempt_list[already:], computed))
        return preempted

    def add_one_req(
        self, original: Callable[..., Any], adder: Any, req: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Admit only the policy's choice, and only above its reserve."""
        from sglang.srt.managers.schedule_policy import AddReqResult

        glue = self.glue
        if glue is not None:
            try:
                if not glue.may_enter(req):
                    return AddReqResult.OTHER  # asked again in the next pass
                if not glue.keeps_reserve(adder, req):
                    return AddReqResult.NO_TOKEN  # asked again when something has left
            except Exception:
                self.give_up()
        result = original(adder, req, *args, **kwargs)
        if adder.can_run_list and adder.can_run_list[-1] is req:
            self._tell(lambda glue: glue.admitted(req))
            self._tell(lambda glue: glue.arrange_after(req))
        return result


def _leads_through(target: Target) -> bool:
    owner, _, name = target.path.rpartition(".")
    try:
        function = getattr(pkgutil.resolve_name(owner), name)
    except (ImportError, AttributeError):
        return False
    while function is not None:
        cells = getattr(function, "__closure__", None) or ()
        if any(cell.cell_contents == target.function for cell in cells):
            return True
        function = getattr(function, "__wrapped__", None)
    return False
