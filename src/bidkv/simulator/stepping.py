"""Drives the reference engine step by step: feeds arrivals, records what finishes."""

from __future__ import annotations

import math

from bidkv.results import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.simulator.arrivals import RequestSource, SimulationError, make_rejection
from bidkv.simulator.progress import PROGRESS_EVERY, ProgressCallback, RecordCallback
from bidkv.simulator.request import SimRequest
from bidkv.simulator.step_engine import ReplicaConfig, StepEngine
from bidkv.simulator.timeline import TimelineRecorder

PATIENCE_STEPS = 20_000
"""Steps without any new token after which a run counts as stuck. The first running request computes at least
one token a step, so a run that makes progress shows a token far earlier."""


class SteppingRun:
    """One workload on one replica: `to_end` runs all of it, `run_until` a part that may be continued.

    Records go to `on_record` one by one; the other results are attributes.

    Args:
        replica: a fresh engine.
        config: the options of `replica`.
        source: where the requests come from.
        on_record: called with each request's record when the request leaves.
        progress: called every few hundred records, or None.
        timeline_points: most points of the timeline kept, at least 2.

    Raises:
        SimulationError: while it runs: the requests preempt one another in a circle and no token comes out.
    """

    def __init__(
        self,
        replica: StepEngine,
        config: ReplicaConfig,
        source: RequestSource,
        on_record: RecordCallback,
        progress: ProgressCallback | None,
        timeline_points: int,
    ) -> None:
        self.replica = replica
        self._config = config
        self._on_record = on_record
        self._records = 0
        self._timeline = TimelineRecorder(timeline_points)
        self._source = source
        self._live: dict[str, SimRequest] = {}
        self._progress = progress
        self._used_block_seconds = 0.0
        self._last_finish_s = 0.0
        self._count = 0
        self._patience_steps = max(PATIENCE_STEPS, 4 * config.model_len)
        self._next_check = self._patience_steps
        self._progress_made = (0, 0)
        self._first_arrival_s = 0.0

    @property
    def view(self) -> StepEngine:
        """The engine as a policy sees it."""
        return self.replica

    def to_end(self) -> None:
        """Run the whole workload."""
        self.run_until(math.inf)

    def run_until(self, until_s: float) -> None:
        """Take every step that starts before `until_s`; the source must know all arrivals before then."""
        replica, source = self.replica, self._source
        while True:
            next_arrival_s = source.next_arrival_s
            if replica.idle:
                if next_arrival_s == math.inf:
                    return
                replica.wait_until(next_arrival_s if self._count == 0 else max(replica.now_s, next_arrival_s))
            if replica.now_s >= until_s:
                return
            if next_arrival_s <= replica.now_s:
                self._take_arrivals()
            if source.next_give_up_s <= replica.now_s:
                self._give_up()
            if replica.idle:  # everything that arrived was rejected or given up
                continue
            duration = replica.step()
            # Blocks of requests that finish in a step are in use until its end.
            used = replica.used_blocks_in_step
            self._used_block_seconds += used * duration
            self._timeline.offer(
                replica.num_steps,
                (
                    replica.now_s,
                    used,
                    replica.num_running,
                    replica.num_waiting,
                    replica.num_preemptions,
                    replica.idle_session_blocks_in_step,
                ),
            )
            for request in replica.finished:
                self._record(request)
            for request in replica.aborted:
                self._record(request, Outcome.FAILED, "it did not fit into the KV pool even alone")
            if replica.num_steps >= self._next_check:
                self._require_progress()

    def _require_progress(self) -> None:
        """Raise if the run is stuck: real engines too can preempt in a circle (priority, equal arrivals)."""
        replica = self.replica
        live = (*replica.running, *replica.waiting())
        progress = (self._records, sum(request.num_output_tokens for request in live))
        if live and progress == self._progress_made:
            raise SimulationError(
                f"no token came out in {self._patience_steps} steps with {replica.num_running} requests "
                f"running and {replica.num_waiting} waiting, first {live[0].request_id!r}: "
                f"the engine preempts them in a circle ({replica.num_preemptions} preemptions so far)"
            )
        self._progress_made = progress
        self._next_check = replica.num_steps + self._patience_steps

    def _take_arrivals(self) -> None:
        replica, source, live = self.replica, self._source, self._live
        model_len, longest_prompt = self._config.model_len, self._config.longest_prompt
        while source.next_arrival_s <= replica.now_s:
            arriving, new_tokens, past_tokens, ends_session = source.take()
            if self._count == 0:
                self._first_arrival_s = arriving.arrival_s
            self._count += 1
            request_id = arriving.request_id
            if arriving.prompt_tokens > longest_prompt:
                source.close(arriving, arriving.arrival_s, 0, completed=False)
                self._hand_out(make_rejection(arriving, longest_prompt))
                continue
            if request_id in live:
                raise SimulationError(
                    f"request {request_id!r} occurs twice: ids must be unique within a workload"
                )
            request = live[request_id] = SimRequest(
                arriving,
                model_len,
                new_tokens=new_tokens,
                past_tokens=past_tokens,
                ends_session=ends_session,
                tells_session=source.tells_sessions,
            )
            replica.submit(request)

    def _give_up(self) -> None:
        """Abort the requests whose clients have waited long enough, unless they are complete by now."""
        replica, source = self.replica, self._source
        while source.next_give_up_s <= replica.now_s:
            request = self._live.get(source.take_given_up())
            if request is not None:
                replica.abort(request)
                self._record(request, Outcome.FAILED, "its client gave it up")

    def _record(self, request: SimRequest, outcome: Outcome = Outcome.COMPLETED, detail: str = "") -> None:
        now = self._last_finish_s = self.replica.now_s
        del self._live[request.request_id]
        completed = outcome is Outcome.COMPLETED
        self._source.close(request._source, now, request.num_output_tokens, completed=completed)
        self._hand_out(
            RequestRecord(
                request.request_id,
                request.arrival_s,
                request.num_prompt_tokens,
                request.num_output_tokens,
                request._first_token_s,
                now if completed else None,
                request.num_preemptions,
                outcome,
                detail,
                request._source.session_id,
                request._source.turn,
                request._ends_session,
                request._new_tokens,
                request._cached_tokens,
            )
        )
        if self._progress is not None and self._records % PROGRESS_EVERY == 0:
            self._progress(self._records, now)

    def _hand_out(self, record: RequestRecord) -> None:
        self._records += 1
        self._on_record(record)

    # --- what came out ---------------------------------------------------------------------------
    @property
    def totals(self) -> EngineTotals:
        """The counters of the run."""
        replica = self.replica
        books = replica.books
        recomputed, lost = books.count_open_lives(replica.running)
        return EngineTotals(
            steps=replica.num_steps,
            scheduled_tokens=replica.num_scheduled_tokens,
            recomputed_tokens=books.recomputed_tokens + recomputed,
            preemptions=replica.num_preemptions,
            used_block_seconds=self._used_block_seconds,
            usable_blocks=replica.num_blocks,
            busy_s=max(0.0, self._last_finish_s - self._first_arrival_s),
            prompt_tokens_seen=books.prompt_tokens_seen,
            prefix_hit_tokens=books.prefix_hit_tokens,
            lost_prefix_tokens=books.lost_prefix_tokens + lost,
            token_gaps=books.gaps,
        )

    @property
    def simulated_s(self) -> float:
        """The simulated clock."""
        return self.replica.now_s

    @property
    def timeline(self) -> list[TimelinePoint]:
        """The engine's state over time."""
        return self._timeline.points
