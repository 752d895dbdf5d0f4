"""One replica of a fleet, simulated only when its state is read or many requests wait for it."""

from __future__ import annotations

import math
import time
from collections import deque

from bidkv.profiles import StepTimeProfile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord, RunResult
from bidkv.simulator.arrivals import Inbox
from bidkv.simulator.fleet.router import ArrivingRequest
from bidkv.simulator.progress import RecordCallback
from bidkv.simulator.run import Backend, make_result, start_run
from bidkv.simulator.step_engine import ReplicaConfig

_STRIDE = 512
"""Most requests sent to a replica before it is simulated further; bounds the memory, keeps strides long."""


class FleetClock:
    """The fleet's clock: the arrival of the request that is being routed."""

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0


class Replica:
    """One replica; satisfies `ReplicaView` as of the clock. The arguments are those of `simulate_fleet`."""

    def __init__(
        self,
        index: int,
        clock: FleetClock,
        policy: Policy,
        engine: ReplicaConfig,
        profile: StepTimeProfile,
        *,
        timeline_points: int,
        backend: Backend,
        on_record: RecordCallback | None,
    ) -> None:
        self.index = index
        self.records: list[RequestRecord] = []
        self.last_finish_s = -math.inf
        self._clock = clock
        self._inbox = Inbox()
        self._on_record = on_record or self.records.append
        self._longest_prompt = engine.longest_prompt
        self._seen_s = -math.inf
        self._requests = 0
        self._prompt_tokens = 0
        # (second, prompt tokens) of requests that leave at the end of a step that is not over yet.
        self._leaving: deque[tuple[float, int]] = deque()
        self._run, self._controller = start_run(
            self._inbox,
            policy,
            engine,
            profile,
            self._take,
            timeline_points=timeline_points,
            backend=backend,
        )

    # --- driving ---------------------------------------------------------------------------------
    def send(self, request: WorkloadRequest) -> None:
        """`request` arrives now."""
        self._inbox.push(request)
        if request.prompt_tokens <= self._longest_prompt:  # others are rejected on arrival
            self._requests += 1
            self._prompt_tokens += request.prompt_tokens
        if len(self._inbox) >= _STRIDE:
            self._catch_up()

    def finish(self, started: float) -> RunResult:
        """Run to the end: no request follows. `started` is the fleet's start on `time.perf_counter`."""
        self._run.to_end()
        return make_result(self._run, self._controller, self.records, time.perf_counter() - started)

    def _take(self, record: RequestRecord) -> None:
        if record.outcome is not Outcome.REJECTED:
            left_s = self._run.view.now_s  # one that the engine gave up left at the end of a step
            if record.finish_s is not None:
                left_s = self.last_finish_s = record.finish_s
            self._leaving.append((left_s, record.prompt_tokens))
        self._on_record(record)

    def _catch_up(self) -> None:
        now_s = self._clock.now_s
        if self._seen_s >= now_s or not self._requests:
            return
        self._seen_s = now_s
        self._run.run_until(now_s)
        leaving = self._leaving
        while leaving and leaving[0][0] <= now_s:
            self._requests -= 1
            self._prompt_tokens -= leaving.popleft()[1]

    # --- what a router may ask -------------------------------------------------------------------
    @property
    def outstanding_requests(self) -> int:
        """Requests sent to it that wait or run."""
        self._catch_up()
        return self._requests

    @property
    def waiting_requests(self) -> int:
        """Requests sent to it that have not entered."""
        self._catch_up()
        return self._run.view.num_waiting

    @property
    def outstanding_prompt_tokens(self) -> int:
        """Prompt tokens of the outstanding requests."""
        self._catch_up()
        return self._prompt_tokens

    @property
    def used_blocks(self) -> int:
        """KV blocks in use."""
        self._catch_up()
        view = self._run.view
        if view.now_s > self._clock.now_s and view.num_steps:
            return view.used_blocks_in_step
        return view.num_blocks - view.free_blocks

    @property
    def num_blocks(self) -> int:
        """Usable KV blocks."""
        return self._run.view.num_blocks

    def cached_tokens(self, request: ArrivingRequest) -> int:
        """Leading prompt tokens found in its prefix cache; 0 without one."""
        self._catch_up()
        return self._run.view.cached_prompt_tokens(request)
