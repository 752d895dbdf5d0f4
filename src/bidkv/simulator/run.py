"""Run a workload or sessions through one simulated replica under one policy."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from bidkv.control import Controller
from bidkv.policy.parts.classes import WithinClasses
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.observer import Observer
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.results import RequestRecord, RunResult
from bidkv.simulator.arrivals import OpenSource, RequestSource
from bidkv.simulator.progress import ProgressCallback, RecordCallback
from bidkv.simulator.sessions import SessionSource
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.sglang.engine import SglangStepEngine
from bidkv.simulator.step_engine import ReplicaConfig, StepEngine
from bidkv.simulator.stepping import SteppingRun
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.engine import VllmStepEngine

if TYPE_CHECKING:
    from bidkv.simulator.vllm.compiled import CompiledRun

    Run = SteppingRun | CompiledRun

Backend = Literal["auto", "compiled", "python"]

_STEP_ENGINES: Mapping[type, Callable[[Any, StepTimeProfile, Controller], StepEngine]] = {
    EngineConfig: VllmStepEngine,
    SglangConfig: SglangStepEngine,
}


def simulate(
    requests: Iterable[WorkloadRequest] | RequestSource,
    policy: Policy,
    engine: ReplicaConfig,
    profile: StepTimeProfile,
    *,
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
    backend: Backend = "auto",
    observer: Observer | None = None,
    on_record: RecordCallback | None = None,
    duration_s: float | None = None,
) -> RunResult:
    """Run a workload through a simulated engine under a policy.

    Args:
        requests: in the order of arrival; streamed, never held as a whole. Or a `RequestSource`, which learns
            when requests leave (:class:`bidkv.simulator.SessionSource`).
        policy: a fresh policy object (it learns while it runs).
        engine: the options of the replica: an `EngineConfig` (vLLM) or a `SglangConfig`.
        profile: turns a step's batch into seconds.
        progress: called every few hundred finished requests.
        timeline_points: most points of the timeline kept, at least 2.
        backend: "python" is the reference; "compiled" is equal and many times faster, needs numba and covers
            simulated vLLM engines with every option; "auto" takes it where it can.
        observer: told of every decision and of what came of it (a decision log), or None.
        on_record: takes each request's record as it leaves the engine, in the order of the result's records,
            which then stay empty. A run of any length then needs memory for the live requests alone.
        duration_s: cut the run at this time: no step starts later, and what is not complete by then has no
            record. None runs to the end.

    Returns:
        The result; deterministic for equal arguments, but for `wall_s`. Requests the engine could never
        run (prompt as long as the model's limit) are recorded as rejected.

    Raises:
        SimulationError: arrivals are not in order, an id occurs twice, or preemption goes in a circle.
        ValueError: the compiled backend was asked for what it does not cover.
    """
    started = time.perf_counter()
    records: list[RequestRecord] = []
    sink = on_record or records.append
    if duration_s is not None:
        if not 0.0 < duration_s < math.inf:
            raise ValueError(f"duration_s must be finite and above 0, got {duration_s}")
        sink = _completed_by(duration_s, sink)
    run, controller = start_run(
        requests,
        policy,
        engine,
        profile,
        sink,
        progress=progress,
        timeline_points=timeline_points,
        backend=backend,
        observer=observer,
        may_be_cut=duration_s is not None,
    )
    if duration_s is None:
        run.to_end()
    else:
        run.run_until(duration_s)
    result = make_result(run, controller, records, time.perf_counter() - started)
    if duration_s is not None:
        result.notes["cut_s"] = duration_s
    return result


def simulate_sessions(
    sessions: Sequence[Session],
    arrivals: SessionArrivals,
    policy: Policy,
    engine: ReplicaConfig,
    profile: StepTimeProfile,
    *,
    patience_s: float | None = None,
    tells_ends: bool = True,
    tells_sessions: bool = True,
    **options: Any,
) -> RunResult:
    """Run sessions in closed loop: each turn arrives its gap after the previous answer's last token.

    Args:
        sessions: in the order in which they start.
        arrivals: when sessions start.
        policy: as in :func:`simulate`; a clairvoyant one is told every gap and every end.
        engine: as in :func:`simulate`; without prefix caching every turn computes its whole past again.
        profile: as in :func:`simulate`.
        patience_s: a client gives up a turn, and its session with it, after this many seconds; None: never.
        tells_ends: whether clients say with the last turn that it is the last.
        tells_sessions: whether clients name the session of a request; policies may find it by its prefix.
        options: the further keywords of :func:`simulate`.

    Raises:
        SimulationError: as in :func:`simulate`, or two sessions have the same id.
        ValueError: as in :func:`simulate`, or a session has no start time where `arrivals` needs one.
    """
    source = SessionSource(
        sessions,
        arrivals,
        patience_s=patience_s,
        tells_ends=tells_ends or policy.clairvoyant,
        tells_sessions=tells_sessions,
        tells_gaps=policy.clairvoyant,
    )
    return simulate(source, policy, engine, profile, **options)


def start_run(
    requests: Iterable[WorkloadRequest] | RequestSource,
    policy: Policy,
    engine: ReplicaConfig,
    profile: StepTimeProfile,
    on_record: RecordCallback,
    *,
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
    backend: Backend = "auto",
    observer: Observer | None = None,
    may_be_cut: bool = False,
) -> tuple[Run, Controller]:
    """Return the run that :func:`simulate` drives, before its first step; arguments as there."""
    # The machine's speed must not change a simulated result, so the time budget is off.
    controller = Controller(
        WithinClasses(policy) if engine.schedules_by_priority else policy,
        time_budget_s=None,
        observer=observer,
    )
    timed = profile.for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
    told = (on_record, progress, timeline_points)
    is_open = isinstance(requests, Iterable)
    if may_be_cut and isinstance(requests, Iterable):
        requests = OpenSource(requests)
    find_by_prefix = is_open or isinstance(requests, Iterable) or not requests.tells_sessions
    if _runs_compiled(backend, engine):
        from bidkv.simulator.vllm.compiled import CompiledRun

        run = CompiledRun(cast("EngineConfig", engine), timed, controller, requests, *told)
        if policy.needs_sessions:
            run.track_sessions(find_by_prefix=find_by_prefix)
        return run, controller
    replica = make_step_engine(engine, timed, controller)
    source = OpenSource(requests) if isinstance(requests, Iterable) else requests
    if policy.needs_sessions or not is_open:
        replica.track_sessions(find_by_prefix=find_by_prefix)
    return SteppingRun(replica, engine, source, *told), controller


def make_step_engine(config: ReplicaConfig, profile: StepTimeProfile, controller: Controller) -> StepEngine:
    """Return a fresh simulated replica with these options.

    Raises:
        TypeError: no simulated engine has options of this type.
    """
    for options, make in _STEP_ENGINES.items():
        if isinstance(config, options):
            return make(config, profile, controller)
    raise TypeError(f"expected an EngineConfig or a SglangConfig, got {config!r}")


def make_result(run: Run, controller: Controller, records: list[RequestRecord], wall_s: float) -> RunResult:
    """Return the result of a run that is over."""
    return RunResult(
        strategy=str(controller.policy.name),
        records=records,
        totals=run.totals,
        simulated_s=run.simulated_s,
        wall_s=wall_s,
        timeline=run.timeline,
        notes={"control": controller.counters.as_dict()},
    )


def _completed_by(end_s: float, sink: RecordCallback) -> RecordCallback:
    """Return a sink that drops what was completed after `end_s`: the last step may end later."""

    def take(record: RequestRecord) -> None:
        if record.finish_s is None or record.finish_s <= end_s:
            sink(record)

    return take


def _runs_compiled(backend: Backend, engine: ReplicaConfig) -> bool:
    if backend not in ("auto", "compiled", "python"):
        raise ValueError(f"backend must be 'auto', 'compiled' or 'python', got {backend!r}")
    if backend == "python":
        return False
    uncovered = not isinstance(engine, EngineConfig) or engine.has_groups
    missing = importlib.util.find_spec("numba") is None
    if backend == "compiled" and uncovered:
        raise ValueError(
            "the compiled backend covers simulated vLLM engines alone, none with sliding windows or states"
        )
    if backend == "compiled" and missing:
        raise ValueError("the compiled backend needs numba: pip install 'bidkv[sim]'")
    return not uncovered and not missing
