"""The simulator behind the driver interface: the same experiment, on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from random import Random
from types import TracebackType
from typing import Any, Self

from bidkv.evaluation.seeds import add_seed
from bidkv.experiments.driver import Done, EngineFacts, Task
from bidkv.experiments.plan import policy_for_label
from bidkv.experiments.session_load import SessionLoad
from bidkv.policy import resolve
from bidkv.profiles import CostLine, Regime, StepTimeProfile, load_profile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SglangConfig, simulate, simulate_sessions

SimConfig = EngineConfig | SglangConfig
"""What is simulated: a vLLM replica or an SGLang one."""

SESSION_DEFAULTS = ("enable_prefix_caching", "async_scheduling")
"""Switches that runs of sessions have on unless stated, as vLLM has."""

SEND_DELAY_S = 1e-3
"""Mean delay in seconds of a request with noise: what a load generator on the same machine shows."""


@dataclass(frozen=True, slots=True)
class SimEngine:
    """A simulated engine as plain data, on which any process can run cells.

    Attributes:
        config: the engine's options.
        profile: name or file of a step-time profile.
        noise: relative standard deviation of a run's speed. With any noise a request also arrives late, by
            an exponential time of mean :data:`SEND_DELAY_S`, as on a real engine: two runs of the same cell
            never differ otherwise.
        seed: of the noise.
        timeline_points: most points of a run's timeline.
        unstated: those of :data:`SESSION_DEFAULTS` that are switched on for sessions.
    """

    config: SimConfig
    profile: str
    noise: float = 0.0
    seed: int = 0
    timeline_points: int = 500
    unstated: frozenset[str] = frozenset(SESSION_DEFAULTS)

    def run(self, task: Task) -> Done:
        """Run one cell; an error becomes the answer's reason."""
        started = time.perf_counter()
        try:
            result = self._simulate(task)
        except Exception as error:  # one failing combination must not lose the others
            return Done(task.cell, time.perf_counter() - started, None, f"{type(error).__name__}: {error}")
        return Done(task.cell, time.perf_counter() - started, result)

    def _simulate(self, task: Task) -> RunResult:
        cell = task.cell
        profile = load_profile(self.profile)
        requests = list(task.requests)
        if self.noise > 0.0:
            draw = Random(f"{self.seed}:{cell.cell_id}")
            profile = scale_profile(profile, draw.lognormvariate(0.0, self.noise))
            requests = _delay_arrivals(requests, draw)
        policy = resolve(add_seed(policy_for_label(cell.strategy), cell.group.repetition))
        if task.sessions is not None:
            return replace(self._simulate_sessions(task.sessions, policy, profile), strategy=cell.strategy)
        result = simulate(requests, policy, self.config, profile, timeline_points=self.timeline_points)
        # In the order of the workload, as in every engine's results: a request has the same row in all runs.
        place = {request.request_id: index for index, request in enumerate(task.requests)}
        records = sorted(result.records, key=lambda record: place[record.request_id])
        return replace(result, strategy=cell.strategy, records=records)

    def _simulate_sessions(self, load: SessionLoad, policy: Policy, profile: StepTimeProfile) -> RunResult:
        config = self.config
        if isinstance(config, EngineConfig):
            # As vLLM runs by default; what is stated stays.
            on: dict[str, Any] = dict.fromkeys(self.unstated, True)
            config = replace(config, **on)
        return simulate_sessions(
            load.sessions,
            load.arrivals,
            policy,
            config,
            profile,
            tells_sessions=load.told,
            duration_s=load.duration_s,
            timeline_points=self.timeline_points,
        )


class SimDriver:
    """Runs cells on a simulated engine.

    Args:
        engine: the engine.
        map_cells: maps a function over tasks and yields its answers in any order; by default one after
            another, with :func:`bidkv.experiments.parallel.map_on_cores` on all cores.
    """

    one_sitting = False

    def __init__(
        self,
        engine: SimEngine,
        map_cells: Callable[[Callable[[Task], Done], Iterable[Task]], Iterator[Done]] = map,
    ) -> None:
        self._engine = engine
        self._map_cells = map_cells

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to stop."""

    def facts(self) -> EngineFacts:
        """Return what is simulated."""
        config = self._engine.config
        scheduler = "SGLang" if isinstance(config, SglangConfig) else "vLLM"
        notes = {
            "engine": f"simulator of {scheduler}",
            "profile": self._engine.profile,
            "noise": self._engine.noise,
        }
        return EngineFacts(config.usable_blocks, config.block_size, config.model_len, notes)

    def about(self) -> str:
        """Say in one line what is simulated."""
        config = self._engine.config
        name, blocks = (
            ("vLLM", config.num_gpu_blocks)
            if isinstance(config, EngineConfig)
            else (
                "SGLang",
                config.usable_blocks,
            )
        )
        tokens = "1 token" if config.block_size == 1 else f"{config.block_size} tokens"
        return (
            f"simulated {name}: {blocks:,} KV blocks of {tokens}, "
            f"{config.max_num_seqs:,} sequences, {config.max_num_batched_tokens:,} tokens a step, "
            f"{self._engine.profile}"
        )

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Run tasks, on several cores if the driver was made so."""
        return iter(self._map_cells(self._engine.run, tasks))


def scale_profile(profile: StepTimeProfile, factor: float) -> StepTimeProfile:
    """Return a profile in which every step takes `factor` times as long."""

    def regime(given: Regime) -> Regime:
        return Regime(line(given.host), line(given.gpu))

    def line(given: CostLine) -> CostLine:
        return CostLine(**{field.name: getattr(given, field.name) * factor for field in fields(CostLine)})

    return replace(
        profile,
        decode=regime(profile.decode),
        graph=regime(profile.graph),
        eager=regime(profile.eager),
        empty_step_s=profile.empty_step_s * factor,
    )


def _delay_arrivals(requests: Iterable[WorkloadRequest], draw: Random) -> list[WorkloadRequest]:
    late = [replace(r, arrival_s=r.arrival_s + draw.expovariate(1.0 / SEND_DELAY_S)) for r in requests]
    return sorted(late, key=lambda request: request.arrival_s)
