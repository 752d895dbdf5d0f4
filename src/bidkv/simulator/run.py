"""From a workload to a result: one replica, one policy, one pass over the requests."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from bidkv.control import Controller
from bidkv.policy.parts.classes import WithinClasses
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.observer import Observer
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RequestRecord, RunResult
from bidkv.simulator.progress import ProgressCallback, RecordCallback
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.stepping import SteppingRun
from bidkv.simulator.vllm.config import EngineConfig

if TYPE_CHECKING:
    from bidkv.simulator.vllm.compiled import CompiledRun

    Run = SteppingRun | CompiledRun

Backend = Literal["auto", "compiled", "python"]


def simulate(
    requests: Iterable[WorkloadRequest],
    policy: Policy,
    engine: EngineConfig | SglangConfig,
    profile: StepTimeProfile,
    *,
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
    backend: Backend = "auto",
    observer: Observer | None = None,
    on_record: RecordCallback | None = None,
) -> RunResult:
    """Run a workload through a simulated engine under a policy.

    Args:
        requests: in the order of arrival; streamed, never held as a whole.
        policy: a fresh policy object (it learns while it runs).
        engine: the options of a vLLM replica, or with a `SglangConfig` of an SGLang replica.
        profile: turns a step's batch into seconds.
        progress: called every few hundred finished requests.
        timeline_points: most points of the timeline kept, at least 2.
        backend: "python" is the reference; "compiled" is equal and many times faster, needs numba and covers
            synchronous first-come-first-served scheduling without prefix caching; "auto" takes it where it
            can.
        observer: told of every decision and of what came of it (a decision log), or None.
        on_record: takes each request's record as it leaves the engine, in the order of the result's records,
            which then stay empty: a run of any length needs no more memory than the requests that live.

    Returns:
        The result; deterministic for equal arguments, but for `wall_s`. Requests the engine could never
        run (prompt as long as the model's limit) are recorded as rejected.

    Raises:
        SimulationError: arrivals are not in order, a name occurs twice, or preemption goes in a circle.
        ValueError: the compiled backend was asked for what it does not cover.
    """
    started = time.perf_counter()
    records: list[RequestRecord] = []
    run, controller = start_run(
        requests,
        policy,
        engine,
        profile,
        on_record or records.append,
        progress=progress,
        timeline_points=timeline_points,
        backend=backend,
        observer=observer,
    )
    run.to_end()
    return result_of(run, controller, records, time.perf_counter() - started)


def start_run(
    requests: Iterable[WorkloadRequest],
    policy: Policy,
    engine: EngineConfig | SglangConfig,
    profile: StepTimeProfile,
    on_record: RecordCallback,
    *,
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
    backend: Backend = "auto",
    observer: Observer | None = None,
) -> tuple[Run, Controller]:
    """Make what :func:`simulate` runs, not a step taken yet; arguments as there."""
    # The machine's speed must not change a simulated result, so the time budget is off.
    controller = Controller(
        WithinClasses(policy) if _by_priority(engine) else policy,
        time_budget_s=None,
        observer=observer,
    )
    timed = profile.for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
    arguments = (timed, controller, requests, on_record, progress, timeline_points)
    if _compiled(backend, engine) and isinstance(engine, EngineConfig):
        from bidkv.simulator.vllm.compiled import CompiledRun

        return CompiledRun(engine, *arguments), controller
    return SteppingRun(engine, *arguments), controller


def result_of(run: Run, controller: Controller, records: list[RequestRecord], wall_s: float) -> RunResult:
    """Return what came out of a run that went to its end."""
    return RunResult(
        strategy=str(controller.policy.name),
        records=records,
        totals=run.totals,
        simulated_s=run.simulated_s,
        wall_s=wall_s,
        timeline=run.timeline,
        notes={"control": controller.counters.as_dict()},
    )


def _by_priority(engine: EngineConfig | SglangConfig) -> bool:
    return isinstance(engine, EngineConfig) and engine.scheduling_policy == "priority"


def _compiled(backend: Backend, engine: EngineConfig | SglangConfig) -> bool:
    if backend not in ("auto", "compiled", "python"):
        raise ValueError(f"backend must be 'auto', 'compiled' or 'python', got {backend!r}")
    if backend == "python":
        return False
    uncovered = (
        isinstance(engine, SglangConfig)
        or engine.scheduling_policy != "fcfs"
        or engine.enable_prefix_caching
        or engine.async_scheduling
    )
    missing = importlib.util.find_spec("numba") is None
    if backend == "compiled" and uncovered:
        raise ValueError(
            "the compiled backend covers vLLM only, with scheduling_policy='fcfs', "
            "enable_prefix_caching=False and async_scheduling=False"
        )
    if backend == "compiled" and missing:
        raise ValueError("the compiled backend needs numba: pip install 'bidkv[sim]'")
    return not uncovered and not missing
