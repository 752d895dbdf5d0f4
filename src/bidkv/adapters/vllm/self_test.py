"""The test at start: a scheduler in miniature, made as the engine's own, must obey a policy to the letter.

It runs before a policy gets the engine, once for a class of scheduler in a process, and takes milliseconds
(`pytest benchmarks/vllm/test_self_test_bench.py`). A version of vLLM on which anything is not as the adapter
needs it keeps its own rules, whatever its number says.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bidkv.adapters.vllm.expectations import (
    find_unexpected,
    find_unexpected_output,
    find_unexpected_request,
)
from bidkv.adapters.vllm.glue import VllmGlue
from bidkv.adapters.vllm.hooks import SchedulerHooks
from bidkv.adapters.vllm.trial import (
    NUM_REQUESTS,
    TrialEngine,
    TrialError,
    TrialParts,
    TrialStep,
    make_trial_requests,
)
from bidkv.control import Controller
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

logger = logging.getLogger("bidkv")

RESERVE_BLOCKS = 2
"""With it two of the requests find room, without it three."""

_results: dict[tuple[type[Any], str, bool], str | None] = {}
"""By class of scheduler, scheduling policy and whether prefixes are cached: what the test found."""


class TrialPolicy(Policy):
    """Takes the oldest as victim and admits the newest: the reverse of vLLM's own rules.

    It keeps blocks free until the first request has finished.

    Attributes:
        admitted: requests in the order of their first admission.
        steps_with_reserve: steps scheduled until the reserve was given up.
        errors: what went wrong while it looked at the engine; a policy's own errors would be logged.
    """

    name = "self-test"
    preemption_cap = None

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.admitted: list[str] = []
        self.steps_with_reserve = 0
        self._reserve = RESERVE_BLOCKS

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the request that arrived first."""
        return self._first(candidates)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the waiting request that arrived last."""
        try:
            return max(engine.waiting(), key=lambda request: request.request_id)
        except Exception as error:
            self.errors.append(error)
            return None

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return a reserve until something has finished."""
        return self._reserve

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Note who enters for the first time."""
        if request.request_id not in self.admitted:
            self.admitted.append(request.request_id)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Give the reserve up."""
        if self._reserve:
            self._reserve = 0
            self.steps_with_reserve = engine.num_steps

    def _first(self, candidates: Sequence[RequestView]) -> RequestView | None:
        try:
            return min(candidates, key=lambda request: request.request_id)
        except Exception as error:
            self.errors.append(error)
            return None


class _TrialGlue(VllmGlue):
    """A glue whose errors end the trial instead of being logged; sessions have checks of their own."""

    def _track_sessions(self, watches: bool) -> None:
        pass

    def give_up(self) -> None:
        """Let the error through."""
        error = sys.exception()
        raise TrialError(f"{type(error).__name__}: {error}") from error


class _TrialMixin(SchedulerHooks):
    """The adapter's hooks on a scheduler in miniature, with a policy of the test's own."""

    def attach(self, policy: Policy) -> None:
        """Put a policy in charge."""
        controller = Controller(policy, time_budget_s=None)
        self.bidkv_named: list[list[str]] = []
        glue = _TrialGlue(self, controller, _Clock())
        glue.on_victims = lambda victims: self.bidkv_named.append([view.request_id for view in victims])
        self._bidkv_glue = self.bidkv_trial_glue = glue
        self.bidkv_scheduler: Any = self
        self.bidkv_freed: list[tuple[int, int]] = []

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Compare what the view of the engine counts with the requests themselves, and schedule."""
        engine = self.bidkv_trial_glue.engine
        requests = self.bidkv_scheduler.requests.values()
        running = sum(request.status.name == "RUNNING" for request in requests)
        waiting = len(requests) - running
        if (engine.num_running, engine.num_waiting) != (running, waiting):
            raise TrialError(
                f"vLLM counts {engine.num_running} running and {engine.num_waiting} waiting requests, "
                f"{running} run and {waiting} wait"
            )
        return super().schedule(*args, **kwargs)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        engine = self.bidkv_trial_glue.engine
        expected, before = engine.freed_blocks(engine.get_view(request)), engine.free_blocks
        super()._preempt_request(request, *args, **kwargs)
        self.bidkv_freed.append((expected, engine.free_blocks - before))


class _Clock:
    """Counts its readings: the trial must not depend on the time of day."""

    def __init__(self) -> None:
        self._readings = 0

    def __call__(self) -> float:
        self._readings += 1
        return float(self._readings)


def find_mismatch(kind: type[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return why this kind of vLLM scheduler cannot be trusted with a policy, or None.

    Args:
        kind: the class that the engine would use without this project.
        args: what the engine makes its scheduler of; it is left alone.
        kwargs: the same, by name.
    """
    try:
        parts = TrialParts.read(kind, args, kwargs)
        key = kind, parts.policy, parts.prefix_caching
        if key not in _results:
            _results[key] = _try(kind, parts)
    except Exception as error:
        return f"the self-test could not begin: {type(error).__name__}: {error}"
    return _results[key]


def _try(kind: type[Any], parts: TrialParts) -> str | None:
    try:
        _run(kind, parts)
    except TrialError as error:
        return str(error)
    except Exception as error:
        return f"the self-test ended with {type(error).__name__}: {error}"
    return None


def _run(kind: type[Any], parts: TrialParts) -> None:
    own = parts.make_scheduler(kind)
    requests = make_trial_requests()
    problem = find_unexpected(own) or find_unexpected_request(requests[0])
    if problem is not None:
        raise TrialError(problem)
    engine = TrialEngine(own)
    engine.serve(requests)
    problem = find_unexpected_output(engine.outputs[0])
    if problem is not None:
        raise TrialError(problem)
    extended = type(kind.__name__, (_TrialMixin, kind), {})
    _check_own_order(parts.make_scheduler(extended), engine.steps)
    _check_policy(parts.make_scheduler(extended))


def _check_own_order(scheduler: Any, expected: list[TrialStep]) -> None:
    """A policy that answers nothing must not change a single step."""
    scheduler.attach(Policy())
    engine = TrialEngine(scheduler)
    engine.serve(make_trial_requests())
    if engine.steps != expected:
        raise TrialError("without a policy's answer the steps differ from vLLM's own")


def _check_policy(scheduler: Any) -> None:
    """Every victim, admission and reserve must be the policy's, and every event must be told once."""
    policy = TrialPolicy()
    scheduler.attach(policy)
    engine = TrialEngine(scheduler)
    requests = make_trial_requests()
    engine.serve(requests)
    if policy.errors:
        raise TrialError(f"{type(policy.errors[0]).__name__}: {policy.errors[0]}")
    _check_victims(scheduler, engine.steps)
    _check_admissions(policy, engine.steps)
    counters = scheduler.bidkv_trial_glue.controller.counters
    preemptions = sum(len(step.preempted) for step in engine.steps)
    expected = {
        "failures": 0,
        "arrivals": NUM_REQUESTS,
        "completions": NUM_REQUESTS,
        "admissions": NUM_REQUESTS + preemptions,
        "preemptions_by_policy": preemptions,
        "preemptions_by_engine": 0,
        "steps": len(engine.steps),
        "scheduled_tokens": sum(tokens for step in engine.steps for _, tokens in step.scheduled),
    }
    for name, value in expected.items():
        if getattr(counters, name) != value:
            raise TrialError(f"{name}: {getattr(counters, name)} were counted, {value} happened")
    if sum(request.num_preemptions for request in requests) != preemptions:
        raise TrialError("the requests count other preemptions than the scheduler made")


def _check_victims(scheduler: Any, steps: list[TrialStep]) -> None:
    preempted = [list(step.preempted) for step in steps if step.preempted]
    if not preempted:
        raise TrialError("nothing was preempted although memory was short")
    if preempted != scheduler.bidkv_named:
        raise TrialError(f"the policy named {scheduler.bidkv_named}, vLLM preempted {preempted}")
    for expected, freed in scheduler.bidkv_freed:
        if expected != freed:
            raise TrialError(f"a preemption freed {freed} blocks, {expected} were expected")


def _check_admissions(policy: TrialPolicy, steps: list[TrialStep]) -> None:
    """The newest enters first, and while the reserve is kept a third request finds no room."""
    newest_first = sorted(policy.admitted, reverse=True)
    if policy.admitted != newest_first:
        raise TrialError(f"the policy chose {newest_first}, vLLM admitted {policy.admitted}")
    for step in steps[: policy.steps_with_reserve]:
        if len(step.scheduled) > 2:
            raise TrialError(f"{len(step.scheduled)} requests ran although a reserve left room for two")
