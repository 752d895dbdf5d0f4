"""Drives the compiled kernel: feeds arrivals, answers its questions with the policy, collects results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.simulator.arrivals import (
    InOrder,
    LiveRequestIds,
    OpenSource,
    RequestSource,
    SimulationError,
    make_rejection,
)
from bidkv.simulator.progress import PROGRESS_EVERY, ProgressCallback, RecordCallback
from bidkv.simulator.sessions import SessionSource
from bidkv.simulator.stepping import PATIENCE_STEPS
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.bridge import Handler, PolicyBridge
from bidkv.simulator.vllm.compiled.feed import Feed
from bidkv.simulator.vllm.compiled.memory import CHUNK, Kernel
from bidkv.simulator.vllm.compiled.totals import read_timeline, read_totals
from bidkv.simulator.vllm.compiled.views import KernelView
from bidkv.simulator.vllm.config import EngineConfig

# A module's own names are found faster than another module's.
_NEED_INPUT = at.NEED_INPUT
_COMPLETED = Outcome.COMPLETED


class CompiledRun:
    """One workload through one compiled replica; `to_end` runs it; attributes hold what came out but records.

    `run_until` stops on the way, and goes on with what its source has by then.

    Args:
        requests: in the order of arrival, or a source that learns when requests leave (a closed loop).
        leap: take uneventful decode steps in a tight loop; False steps one by one (for comparison).

    Raises:
        SimulationError: while it runs, when the requests preempt one another for ever and no token comes out.
    """

    def __init__(
        self,
        config: EngineConfig,
        profile: StepTimeProfile,
        controller: Controller,
        requests: Iterable[WorkloadRequest] | RequestSource,
        on_record: RecordCallback,
        progress: ProgressCallback | None,
        timeline_points: int,
        *,
        leap: bool = True,
    ) -> None:
        self._on_record = on_record
        self._records = 0
        self._config = config
        self._model_len = config.model_len
        self._control = controller
        self._progress = progress
        self._first_arrival_s: float | None = None
        self._last_give_up_s = -math.inf
        self._live_ids = LiveRequestIds()
        self._patience_steps = max(PATIENCE_STEPS, 4 * self._model_len)
        self._progress_made = (0, 0)
        self._kernel = Kernel(config, profile, timeline_points, leap=leap)
        self._words = self._kernel.words
        self._words[at.CHECK_AT] = self._patience_steps
        self._feed = Feed(self._kernel, config, forgets_sessions=isinstance(requests, SessionSource))
        tells_sessions = isinstance(requests, Iterable) or requests.tells_sessions
        self.view = KernelView(config, self._kernel, self._feed, tells_sessions=tells_sessions)
        # In a closed loop with prefix caching the reference keeps session accounts always; they count turns.
        self._counts_turns = config.enable_prefix_caching and not isinstance(requests, Iterable | OpenSource)
        self._sessions_ended = 0
        self._source: RequestSource | None = None
        self._requests: InOrder | None = None
        if isinstance(requests, Iterable):
            self._requests = InOrder(requests)
        else:
            self._source = requests
            self._words[at.CLOSED_LOOP] = 1
        self._bridge = PolicyBridge(self._kernel, self.view, controller)
        self._handlers: list[Handler] = [self._kernel.add_slots] * at.REASONS
        self._handlers[at.OUTPUT_FULL] = self._drain
        self._handlers[at.STEP_COMPLETED] = self._hear_completions
        self._handlers[at.NEED_CHECK] = self._require_progress
        self._listen()

    def _listen(self) -> None:
        """Tell the kernel what the policy wants to be asked and told."""
        for reason, handler in self._bridge.listen().items():
            self._handlers[reason] = handler

    def track_sessions(self, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy from now on; without prefix caching there is nothing to show.

        Args:
            find_by_prefix: whether a request without a named session is matched with the past it repeats.
        """
        if self._config.enable_prefix_caching:
            self.view.track_sessions(self._control, find_by_prefix=find_by_prefix)
            self._counts_turns = False
            self._listen()

    # --- running ---------------------------------------------------------------------------------
    def to_end(self) -> None:
        """Run the whole workload."""
        if self._requests is None:
            self.run_until(math.inf)
            return
        self._kernel.seconds[at.UNTIL_S] = -math.inf
        while self._advance() == at.NEED_INPUT:
            self._feed_open(list(islice(self._requests, CHUNK)))
        self._drain()
        self._count()

    def run_until(self, until_s: float) -> None:
        """Take every step that starts before `until_s`; the source has all that arrives before it."""
        if self._source is not None:
            self._run_closed(self._source, until_s)
            return
        assert self._requests is not None
        incoming = list(self._requests)
        if incoming:
            self._feed_open(incoming)
        self._kernel.seconds[at.UNTIL_S] = until_s
        self._advance()
        self._drain()

    def _run_closed(self, source: RequestSource, until_s: float) -> None:
        """Run on, hearing from the source what arrives next after every step that completed requests."""
        words, seconds = self._words, self._kernel.seconds
        self._until_s = until_s
        arrivals_are_in = False
        self._look_ahead()
        while self._advance() == _NEED_INPUT:
            next_arrival_s = source.next_arrival_s
            if not arrivals_are_in:
                if self.view.is_idle:
                    if next_arrival_s == math.inf:
                        break
                    if self._first_arrival_s is None or next_arrival_s > seconds[at.NOW_S]:
                        seconds[at.NOW_S] = next_arrival_s
                now_s = seconds[at.NOW_S]
                if now_s >= until_s:
                    break
                if next_arrival_s <= now_s:
                    self._take_arrivals(source, now_s)
                if source.next_give_up_s > now_s:
                    self._look_ahead()
                    continue
                seconds[at.UNTIL_S] = -math.inf  # come back once they are in
                arrivals_are_in = True
                continue
            arrivals_are_in = False
            while source.next_give_up_s <= seconds[at.NOW_S]:
                self._abort(source, source.take_given_up())
            self._look_ahead()
            if not self.view.is_idle:
                # The step comes first, whatever the requests that were given up make arrive at this moment.
                words[at.PHASE] = at.P_BEFORE
        self._drain()
        self._count()

    def _look_ahead(self) -> None:
        """Steps that start before the source's next event need no input."""
        source = self._source
        assert source is not None
        self._kernel.seconds[at.UNTIL_S] = min(source.next_arrival_s, source.next_give_up_s, self._until_s)

    def _advance(self) -> int:
        """Run and answer the kernel's questions until it is done or needs input; return which."""
        kernel, handlers, seen = self._kernel, self._handlers, self.view.seen
        control, bridge = self._control, self._bridge
        breaker = control.breaker
        while True:
            stops = kernel.stops
            for reason in stops:
                seen.running = None
                if reason <= _NEED_INPUT:
                    return reason
                handlers[reason]()
                if control.drops_idle and control.sessions is not None:
                    kernel.words[at.RETAINED_IN_BOOKS] = control.sessions.retained_blocks
                if breaker.is_open and bridge.hears:  # a policy that failed is asked and told nothing more
                    kernel.tables.requests[at.NAMED] = 0
                    self._listen()
                if kernel.stops is not stops:  # it has other arrays now
                    break

    def _require_progress(self) -> None:
        """`SteppingRun._require_progress`."""
        self._hear_completions()
        view, words = self.view, self._words
        slots = self._kernel.live_slots()
        table = self._kernel.tables.requests
        progress = (self._records, int((table[at.TOKENS, slots] - table[at.PROMPT, slots]).sum()))
        if len(slots) and progress == self._progress_made:
            first = (*view.running, *view.waiting())[0]
            raise SimulationError(
                f"no token came out in {self._patience_steps} steps with {view.num_running} requests "
                f"running and {view.num_waiting} waiting, first {first.request_id!r}: "
                f"the engine preempts them in a circle ({words[at.PREEMPTION_TOTAL]} preemptions so far)"
            )
        self._progress_made = progress
        words[at.CHECK_AT] = words[at.STEPS] + self._patience_steps

    def _count(self) -> None:
        """Fill the controller's counters: it was told only of the events its policy listens to."""
        words, counters = self._words, self._control.counters
        counters.arrivals = words[at.ARRIVALS]
        counters.admissions = words[at.ADMISSIONS]
        counters.completions = words[at.COMPLETIONS]
        counters.aborts = words[at.ABORTS]
        counters.steps = words[at.STEPS]
        counters.scheduled_tokens = words[at.SCHEDULED_TOKENS]
        counters.recomputed_tokens = words[at.RECOMPUTED]
        counters.preemptions_by_policy = words[at.PREEMPTED_BY_POLICY]
        counters.preemptions_by_engine = words[at.PREEMPTION_TOTAL] - counters.preemptions_by_policy
        counters.blocks_freed = words[at.BLOCKS_FREED]
        counters.tokens_lost = words[at.TOKENS_LOST]
        if self._counts_turns:
            counters.turns = counters.completions + counters.aborts
            counters.sessions_ended = self._sessions_ended

    # --- input and output ------------------------------------------------------------------------
    def _feed_open(self, incoming: Sequence[WorkloadRequest]) -> None:
        """Hand the kernel what arrives next, behind what it has not taken yet; none: it had the last."""
        self._drain()
        model_len, enter = self._model_len, self._live_ids.enter
        if self._first_arrival_s is None and incoming:
            self._first_arrival_s = self._kernel.seconds[at.NOW_S] = incoming[0].arrival_s
        fitting: list[WorkloadRequest] = []
        for request in incoming:
            if request.prompt_tokens >= model_len:
                self._hand_out(make_rejection(request, model_len - 1))
                continue
            enter(request.request_id)
            fitting.append(request)
        self._feed.add(fitting)
        self._words[at.INPUT_LAST] = not incoming

    def _take_arrivals(self, source: RequestSource, now_s: float) -> None:
        """Hand the kernel all that has arrived by now."""
        model_len, feed, enter = self._model_len, self._feed, self._live_ids.enter
        while source.next_arrival_s <= now_s:
            arrival = source.take()
            request = arrival.request
            if self._first_arrival_s is None:
                self._first_arrival_s = request.arrival_s
            if request.prompt_tokens >= model_len:
                source.close(request, request.arrival_s, 0, completed=False)
                feed.end_session(request.session_id)
                self._hand_out(make_rejection(request, model_len - 1))
                continue
            enter(request.request_id)
            feed.add_arrival(arrival)

    def _hear_completions(self) -> None:
        """A step of a closed loop completed requests: what they lead to may arrive before the next stop."""
        self._drain()
        if self._source is not None:
            self._look_ahead()

    def _drain(self) -> None:
        count = self._words[at.OUTPUT_LENGTH]
        if not count:
            return
        self._words[at.OUTPUT_LENGTH] = 0
        t = self._kernel.tables
        columns = (*t.outputs[:, :count].tolist(), *t.outputs_s[:, :count].tolist())
        feed, leave, on_record = self._feed, self._live_ids.leave, self._on_record
        remove, facts = feed.remove, feed.facts
        views, progress, source = self.view.views, self._progress, self._source
        ends_session, new_tokens = False, None
        for uid, tokens, preemptions, cached, first_s, finish_s in zip(*columns, strict=True):
            request = remove(uid)
            leave(request.request_id)
            if views:
                views.pop(uid, None)
            if source is not None:
                _, new_tokens, _, ends_session = facts.pop(uid)
                source.close(request, finish_s, tokens, completed=True)
                self._sessions_ended += request.is_last_turn
                if ends_session:
                    feed.end_session(request.session_id)
            self._records += 1
            on_record(
                RequestRecord(
                    request.request_id,
                    request.arrival_s,
                    request.prompt_tokens,
                    tokens,
                    first_s,
                    finish_s,
                    preemptions,
                    _COMPLETED,
                    "",
                    request.session_id,
                    request.turn,
                    ends_session,
                    new_tokens,
                    cached,
                )
            )
            if progress is not None and self._records % PROGRESS_EVERY == 0:
                progress(self._records, finish_s)

    def _abort(self, source: RequestSource, request_id: str) -> None:
        """The client of a request, which may be complete by now, gives it up."""
        slot = self.view.find_slot(request_id)
        if slot is None:
            return
        view, now_s = self.view, self._kernel.seconds[at.NOW_S]
        request = view.request(slot)
        first_token_s = self._kernel.tables.times[at.FIRST_TOKEN_S, slot]
        self._kernel.ask(at.Q_ABORT, slot)
        view.seen.running = None
        self._last_give_up_s = now_s
        if self._words[at.HEARS_FINISH]:
            self._bridge.hear_abort(request)
        tokens, preemptions = request.num_output_tokens, request.num_preemptions
        cached = self._kernel.rows[at.CACHED][slot]
        workload_request = self._feed.remove(request._uid)
        _, new_tokens, _, ends_session = self._feed.facts.pop(request._uid)
        self._sessions_ended += workload_request.is_last_turn
        view.views.pop(request._uid, None)
        self._live_ids.leave(request_id)
        source.close(workload_request, now_s, tokens, completed=False)
        self._feed.end_session(workload_request.session_id)
        self._hand_out(
            RequestRecord(
                request_id,
                request.arrival_s,
                request.num_prompt_tokens,
                tokens,
                None if first_token_s < 0.0 else float(first_token_s),
                None,
                preemptions,
                Outcome.FAILED,
                "its client gave it up",
                workload_request.session_id,
                workload_request.turn,
                ends_session,
                new_tokens,
                None if cached < 0 else cached,
            )
        )
        if self._progress is not None and self._records % PROGRESS_EVERY == 0:
            self._progress(self._records, now_s)

    def _hand_out(self, record: RequestRecord) -> None:
        self._records += 1
        self._on_record(record)

    # --- what came out ---------------------------------------------------------------------------
    @property
    def totals(self) -> EngineTotals:
        """The counters of the run."""
        return read_totals(self._kernel, self._first_arrival_s or 0.0, self._last_give_up_s)

    @property
    def simulated_s(self) -> float:
        """The simulated clock."""
        return self._kernel.seconds[at.NOW_S]

    @property
    def timeline(self) -> list[TimelinePoint]:
        """The engine's state over time."""
        return read_timeline(self._kernel)
