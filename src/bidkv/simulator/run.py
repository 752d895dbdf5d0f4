"""From a workload to a result: one replica, one policy, one pass over the requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, Outcome, RequestRecord, RunResult
from bidkv.simulator.config import EngineConfig
from bidkv.simulator.engine import Engine
from bidkv.simulator.request import SimRequest
from bidkv.simulator.timeline import TimelineRecorder

ProgressCallback = Callable[[int, float], None]
"""Called now and then with (requests finished so far, simulated seconds)."""

_PROGRESS_EVERY = 256


class SimulationError(RuntimeError):
    """The workload cannot be run as given; the message names the request."""


def simulate(
    requests: Iterable[WorkloadRequest],
    policy: Policy,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
) -> RunResult:
    """Run a workload through a simulated engine under a policy.

    Args:
        requests: in the order of arrival; streamed, never held as a whole.
        policy: a fresh policy object (it learns while it runs).
        engine: the engine's options.
        profile: turns a step's batch into seconds.
        progress: called every few hundred finished requests.
        timeline_points: most points of the timeline kept.

    Returns:
        The result; deterministic for equal arguments, but for `wall_s`. Requests the engine could never
        run (prompt as long as the model's limit) are recorded as rejected.

    Raises:
        SimulationError: arrivals are not in order.
    """
    started = time.perf_counter()
    # The machine's speed must not change a simulated result, so the time budget is off.
    controller = Controller(policy, time_budget_s=None)
    timed = profile.for_engine(engine.max_num_seqs, engine.max_num_batched_tokens)
    replica = Engine(engine, timed, controller)
    run = _Run(replica, iter(requests), progress, timeline_points)
    run.to_end()
    totals = EngineTotals(
        steps=replica.num_steps,
        scheduled_tokens=replica.scheduled_tokens,
        recomputed_tokens=replica.recomputed_tokens,
        preemptions=replica.num_preemptions,
        used_block_seconds=run.used_block_seconds,
        usable_blocks=engine.usable_blocks,
        busy_s=max(0.0, run.last_finish_s - run.first_arrival_s),
    )
    return RunResult(
        strategy=str(policy.name),
        records=run.records,
        totals=totals,
        simulated_s=replica.now_s,
        wall_s=time.perf_counter() - started,
        timeline=run.timeline.points,
        notes={"control": controller.counters.as_dict()},
    )


class _Run:
    def __init__(
        self,
        replica: Engine,
        source: Iterator[WorkloadRequest],
        progress: ProgressCallback | None,
        timeline_points: int,
    ) -> None:
        self.replica = replica
        self.records: list[RequestRecord] = []
        self.timeline = TimelineRecorder(timeline_points)
        self.used_block_seconds = 0.0
        self.first_arrival_s = 0.0
        self.last_finish_s = 0.0
        self._source = source
        self._progress = progress
        self._count = 0
        self._next: WorkloadRequest | None = None
        self._pull()
        if self._next is not None:
            self.first_arrival_s = replica.now_s = self._next.arrival_s

    def _pull(self) -> None:
        previous = self._next
        self._next = next(self._source, None)
        if self._next is not None and previous is not None and self._next.arrival_s < previous.arrival_s:
            raise SimulationError(
                f"request {self._next.request_id!r} arrives at {self._next.arrival_s} s, before "
                f"{previous.request_id!r} at {previous.arrival_s} s: arrivals must be in order"
            )

    def to_end(self) -> None:
        replica = self.replica
        while True:
            if replica.idle:
                if self._next is None:
                    return
                replica.now_s = max(replica.now_s, self._next.arrival_s)
            self._take_arrivals()
            if replica.idle:  # everything that arrived was rejected
                continue
            duration = replica.step()
            # Blocks of requests that finish in a step are in use until its end.
            self.used_block_seconds += replica.used_blocks_in_step * duration
            point = (
                replica.now_s,
                replica.used_blocks_in_step,
                len(replica.running),
                replica.num_waiting,
                replica.num_preemptions,
            )
            self.timeline.offer(replica.num_steps, point)
            for request in replica.finished:
                self._record(request)

    def _take_arrivals(self) -> None:
        replica = self.replica
        while self._next is not None and self._next.arrival_s <= replica.now_s:
            source = self._next
            self._count += 1
            if source.prompt_tokens >= replica.config.model_len:
                self._reject(source)
            else:
                replica.submit(SimRequest(source, self._count, replica.config.model_len))
            self._pull()

    def _reject(self, source: WorkloadRequest) -> None:
        limit = self.replica.config.model_len
        self.records.append(
            RequestRecord(
                source.request_id,
                source.arrival_s,
                source.prompt_tokens,
                0,
                None,
                None,
                outcome=Outcome.REJECTED,
                detail=f"prompt of {source.prompt_tokens} tokens, the engine takes at most {limit - 1}",
            )
        )

    def _record(self, request: SimRequest) -> None:
        now = self.last_finish_s = self.replica.now_s
        self.records.append(
            RequestRecord(
                request.request_id,
                request.arrival_s,
                request.num_prompt_tokens,
                request.num_output_tokens,
                request._first_token_s,
                now,
                request.num_preemptions,
            )
        )
        if self._progress is not None and len(self.records) % _PROGRESS_EVERY == 0:
            self._progress(len(self.records), now)
