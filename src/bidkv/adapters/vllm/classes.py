"""The scheduler classes, made when first asked for: importing the adapter does not need vLLM."""

from __future__ import annotations

import functools
import logging
from typing import Any

from bidkv.adapters.vllm.mixin import BidKVSchedulerMixin

logger = logging.getLogger("bidkv")

MODULE = "bidkv.adapters.vllm"


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


def attached(base: type[Any]) -> type[Any]:
    """The class that takes a scheduler class's place; `base` itself when it is ours or unknown to us."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    if issubclass(base, BidKVSchedulerMixin):
        return base
    if base in (Scheduler, AsyncScheduler):
        return scheduler_class(asynchronous=base is AsyncScheduler)
    logger.warning("bidkv: stays off: it extends vLLM's own schedulers only, not %s", base.__qualname__)
    return base
