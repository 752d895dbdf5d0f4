"""The adapter's scheduler classes over the real ones, given a policy by name and a clock of seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

from tests.vllm.cases import Case, Step
from tests.vllm.harness import AsyncScheduler, Scheduler, SecondClock, build_scheduler, run_case

from bidkv.adapters.environment import STRATEGY
from bidkv.adapters.vllm.schedulers import scheduler_class


def build_ours(
    case: Case,
    policy: str,
    base: type[Scheduler] = Scheduler,
    *,
    engine: Mapping[str, Any] | None = None,
    **environment: str,
) -> Any:
    """A scheduler of the adapter for a case, built from the environment as in a server.

    Args:
        case: whose shape it has.
        policy: by its name.
        base: Scheduler or AsyncScheduler.
        engine: further settings for `build_scheduler`.
        environment: further variables.
    """
    clock = SecondClock()
    ours = scheduler_class(asynchronous=base is AsyncScheduler)
    with patch.dict("os.environ", {STRATEGY: policy, **environment}):
        scheduler: Any = build_scheduler(
            case.shape, type("Clocked", (ours,), {"bidkv_clock": clock}), **engine or {}
        )
    # Steps are compared here, not speed: a busy machine must not switch the policy off.
    scheduler.bidkv.controller._time_budget_s = None
    return scheduler


def run_ours(
    case: Case,
    policy: str,
    base: type[Scheduler] = Scheduler,
    *,
    engine: Mapping[str, Any] | None = None,
    prepare: Callable[[Any], None] | None = None,
    before_step: Callable[[Any, int], None] | None = None,
) -> tuple[list[Step], Any]:
    """Serve a case under a policy; return its steps and the scheduler, which must have forgotten it all."""
    scheduler = build_ours(case, policy, base, engine=engine)
    steps = run_case(
        case, scheduler=scheduler, prepare=prepare, before_step=before_step, clock=scheduler.bidkv_clock
    )
    engine = scheduler.bidkv.glue.engine
    engine.begin_step()  # what finished in the last step is forgotten before the next
    assert not engine.views, "views of finished requests are kept"
    return steps, scheduler
