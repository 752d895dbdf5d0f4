"""The places in vLLM where this project attaches: a mixin over its schedulers, and the classes made of it.

The classes are made when first asked for, so importing the adapter does not need vLLM. No method of the mixin
lets an error of this project into the engine: the glue guards its own entry points.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

logger = logging.getLogger("bidkv")

MODULE = "bidkv.adapters.vllm"

if TYPE_CHECKING:

    class _Scheduler:
        """The methods of vLLM's scheduler that the mixin extends."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def schedule(self, *args: Any, **kwargs: Any) -> Any: ...
        def _enqueue_waiting_request(self, request: Any) -> None: ...
        def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None: ...
        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _update_request_as_session(self, session: Any, *args: Any, **kwargs: Any) -> Any: ...
        def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool: ...

else:
    _Scheduler = object


class BidKVSchedulerMixin(_Scheduler):
    """Goes before vLLM's `Scheduler` or `AsyncScheduler` in a class's bases."""

    bidkv_clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from bidkv.adapters.vllm.service import VllmService

        self.bidkv = VllmService.from_environment(self, self.bidkv_clock)
        self._bidkv_glue = self.bidkv.glue

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule one step with the policy's victims, admissions and reserve."""
        glue = self._bidkv_glue
        glue.begin_pass()
        output = None
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            glue.end_pass(output)
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

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Throw the prefix cache away; the engine calls it for its own endpoint and before it sleeps."""
        was_reset = super().reset_prefix_cache(*args, **kwargs)
        if was_reset:
            self._bidkv_glue.cache_was_reset()
        return was_reset


@functools.cache
def scheduler_class(*, asynchronous: bool) -> type[Any]:
    """vLLM's `AsyncScheduler` or `Scheduler` with the policy in charge.

    Raises:
        ImportError: vLLM is not installed.
    """
    if asynchronous:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler

        return type("BidKVAsyncScheduler", (BidKVSchedulerMixin, AsyncScheduler), {"__module__": MODULE})
    from vllm.v1.core.sched.scheduler import Scheduler

    return type("BidKVScheduler", (BidKVSchedulerMixin, Scheduler), {"__module__": MODULE})


def extend_scheduler_class(base: type[Any]) -> type[Any]:
    """Return the class that takes a scheduler class's place; `base` itself when it is ours or unknown."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    if issubclass(base, BidKVSchedulerMixin):
        return base
    if base in (Scheduler, AsyncScheduler):
        return scheduler_class(asynchronous=base is AsyncScheduler)
    logger.warning("bidkv: stays off: it extends vLLM's own schedulers only, not %s", base.__qualname__)
    return base
