"""vLLM's schedulers with a policy in charge, made of its own classes and this project's hooks.

The classes are made when first asked for, so importing the adapter does not need vLLM.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

from bidkv.adapters.environment import read_environment
from bidkv.adapters.vllm.glue import DetachedGlue
from bidkv.adapters.vllm.hooks import SchedulerHooks
from bidkv.adapters.vllm.self_test import find_mismatch
from bidkv.adapters.vllm.service import VllmService
from bidkv.policy import PolicySpecError

logger = logging.getLogger("bidkv")

MODULE = "bidkv.adapters.vllm"


class BidKVSchedulerMixin(SchedulerHooks):
    """Gives a scheduler its policy when it is made, unless the self-test of its class fails."""

    bidkv_clock: Callable[[], float] = staticmethod(time.monotonic)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a scheduler; one of vLLM's own class where the self-test fails."""
        own = read_own_class(cls)
        if not adds_only_ours(cls, own):
            return super().__new__(cls)
        problem = find_mismatch(own, args, kwargs)
        if problem is None:
            return super().__new__(cls)
        scheduler = own(*args, **kwargs)
        # For its metrics, in which an operator sees that the policy stays off.
        scheduler.bidkv = make_service(scheduler, cls.bidkv_clock, problem)
        return scheduler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        problem = find_mismatch(read_own_class(type(self)), args, kwargs)
        self.bidkv = make_service(self, self.bidkv_clock, problem)
        self._bidkv_glue = DetachedGlue() if self.bidkv is None else self.bidkv.glue


def make_service(scheduler: Any, clock: Callable[[], float], problem: str | None) -> VllmService | None:
    """Return what attaches a policy to a scheduler; None, with the reason logged, where it cannot be made.

    Raises:
        ValueError: a variable of the environment makes no sense, which only the operator can mend.
    """
    environment = read_environment()
    try:
        return VllmService(scheduler, environment, clock, problem)
    except PolicySpecError:
        raise
    except Exception:
        reason = "" if problem is None else f": {problem}"
        logger.exception("bidkv: stays off, and has no metrics that would say so%s", reason)
        return None


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
    """Return the class that takes a scheduler class's place; `base` itself when it is ours or cannot be.

    A class that others derived from vLLM's scheduler is extended like vLLM's own: before a policy gets the
    engine, the self-test runs on that very class. vLLM's own derived schedulers are left alone, since they
    schedule something else, and so is a class that is no `Scheduler`.
    """
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    if issubclass(base, BidKVSchedulerMixin):
        return base
    if base in (Scheduler, AsyncScheduler):
        return scheduler_class(asynchronous=base is AsyncScheduler)
    if issubclass(base, Scheduler) and not base.__module__.startswith("vllm."):
        return type(f"BidKV{base.__name__}", (BidKVSchedulerMixin, base), {"__module__": MODULE})
    logger.warning("bidkv: stays off: it extends vLLM's own schedulers only, not %s", base.__qualname__)
    return base


def read_own_class(kind: type[Any]) -> type[Any]:
    """Return the class of scheduler that the engine would have without this project."""
    order = kind.__mro__
    own: type[Any] = order[order.index(SchedulerHooks) + 1]
    return own


def adds_only_ours(kind: type[Any], own: type[Any]) -> bool:
    """Whether a scheduler of class `kind` may become one of `own`: nobody else added a method to it."""
    added = kind.__mro__[: kind.__mro__.index(own)]
    others = [cls for cls in added if cls.__module__ not in (MODULE, __name__, SchedulerHooks.__module__)]
    return not any(inspect.isfunction(value) for cls in others for value in vars(cls).values())
