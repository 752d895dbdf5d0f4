"""Step batches of a recorded run that kept no step log: the simulator makes them, by the recorded clock.

A run's timeline says when every 20th step ended. The simulator takes the same requests through those steps,
and its step times are stretched window by window until each ends when the record says: every arrival then
meets the step that it met on the real engine, within a fraction of a window. Where the simulated state
(requests that run and wait) agrees with the record at both ends of a window, its batches are taken for those
of the real engine.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from bidkv.calibration.replay_plan import TIMELINE_EVERY, make_run_requests
from bidkv.calibration.step_log import Floats
from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult, TimelinePoint
from bidkv.simulator import EngineConfig
from bidkv.simulator.request import SimRequest
from bidkv.simulator.vllm.engine import VllmStepEngine

_TRIES = 10
"""Most stretches that are tried to make a window end when the record says."""

_MET_S = 1e-7
"""Seconds from the record within which a window's end needs no further try."""

_CLOSE_S = 1e-3
"""Seconds from the record beyond which a window is not used."""

_LEAST_STRETCH = 0.01
"""Smallest factor on step times that is tried."""


@dataclass(frozen=True)
class Window:
    """Consecutive steps of which only the total time is known.

    Attributes:
        batches: one row per step: the five arguments of :meth:`~bidkv.profiles.StepTimeProfile.step_s`.
        duration_s: recorded seconds of all of them together.
        graph_max_tokens: the largest CUDA graph of the engine that ran them.
    """

    batches: Floats
    duration_s: float
    graph_max_tokens: int


class _Stretched:
    """Step times of a profile times a factor; keeps every batch it was asked for."""

    def __init__(self, profile: StepTimeProfile) -> None:
        self.profile = profile
        self.factor = 1.0
        self.batches: list[tuple[float, ...]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> _Stretched:
        # Neither the profile nor a batch ever changes, and there are thousands of batches.
        copied = _Stretched(self.profile)
        copied.factor = self.factor
        copied.batches = self.batches.copy()
        memo[id(self)] = copied
        return copied

    @property
    def empty_step_s(self) -> float:
        self.batches.append((0.0,) * 5)
        return self.factor * self.profile.empty_step_s

    def step_s(self, *batch: Any) -> float:
        self.batches.append(batch)
        return self.factor * self.profile.step_s(*batch)


class _Drive:
    """The simulated engine within one run; a copy of it can try a window."""

    def __init__(self, config: EngineConfig, profile: StepTimeProfile, policy: str) -> None:
        self.times = _Stretched(profile.for_engine(config.max_num_seqs, config.max_num_batched_tokens))
        controller = Controller(resolve(policy), time_budget_s=None)
        self.engine = VllmStepEngine(config, cast("StepTimeProfile", self.times), controller)
        self.submitted = 0
        self.idle_s = 0.0

    def steps(self, count: int, requests: Sequence[WorkloadRequest]) -> bool:
        """Take `count` steps; False when there is nothing left to take them with."""
        engine = self.engine
        for _ in range(count):
            if engine.idle:
                if self.submitted == len(requests):
                    return False
                wait_s = max(0.0, requests[self.submitted].arrival_s - engine.now_s)
                self.idle_s += wait_s
                engine.wait_until(engine.now_s + wait_s)
            while self.submitted < len(requests) and requests[self.submitted].arrival_s <= engine.now_s:
                self.submitted += 1
                request = requests[self.submitted - 1]
                engine.submit(SimRequest(request, engine.config.model_len))
            engine.step()
        return True


def run_windows(spec: dict[str, Any], real: RunResult, profile: StepTimeProfile) -> tuple[list[Window], int]:
    """Return the windows of a run whose batches are known, and the number of all windows.

    Args:
        spec: the run in its plan (:func:`bidkv.calibration.validation.read_runs`).
        real: what was recorded of it.
        profile: divides a window's time among its steps until they are fitted.
    """
    config = EngineConfig(
        num_gpu_blocks=spec["blocks"],
        max_num_seqs=spec["max_num_seqs"],
        max_num_batched_tokens=spec["chunk"],
        async_scheduling=spec["async_scheduling"],
    )
    requests = make_run_requests(spec)
    drive: _Drive | None = _Drive(config, profile, spec["policy"])
    found = []
    agreed = False
    lag = int(config.async_scheduling)  # scheduled ahead, a step waits for the batch before its own
    for number, point in enumerate(real.timeline):
        assert drive is not None
        first = drive.engine.num_steps - lag
        drive = _advance_to(drive, 1 + TIMELINE_EVERY * number - drive.engine.num_steps, point, requests)
        if drive is None:
            break
        engine = drive.engine
        agrees = (engine.num_running, engine.num_waiting) == (point.running, point.waiting)
        agrees = agrees and abs(engine.now_s - point.time_s) < _CLOSE_S
        if agrees and agreed and number > 1:  # the first window holds what an engine does once
            batches = np.array(drive.times.batches[first : engine.num_steps - lag], dtype=np.float64)
            duration_s = point.time_s - real.timeline[number - 1].time_s
            found.append(Window(batches, duration_s, drive.times.profile.graph_max_tokens))
        agreed = agrees
    return found, max(0, len(real.timeline) - 2)


def _advance_to(
    start: _Drive, steps: int, point: TimelinePoint, requests: Sequence[WorkloadRequest]
) -> _Drive | None:
    """Return `start` advanced by `steps`, stretched to end at `point`; None if the run ends before."""
    factor = 1.0
    for _ in range(_TRIES):
        drive = copy.deepcopy(start)
        drive.times.factor = factor
        if not drive.steps(steps, requests):
            return None
        began_s = start.engine.now_s + drive.idle_s - start.idle_s
        took_s = drive.engine.now_s - began_s
        if took_s <= 0.0:  # the first step of all waits for none
            drive.engine.wait_until(point.time_s)
        if abs(drive.engine.now_s - point.time_s) < _MET_S:
            break
        factor = max(_LEAST_STRETCH, factor * (point.time_s - began_s) / took_s)
    return drive
