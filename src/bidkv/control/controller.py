"""The one object an engine talks to: it asks the policy, guards it, keeps the books and counts.

An engine (the simulator or an adapter) reports events and asks four questions; it never knows which
policy answers. No error of a policy can reach the engine: a policy that raises, answers nonsense or overruns
its time budget is switched off and the engine's own rule takes over; what it answered before stands. Only
what asks the whole process to stop (KeyboardInterrupt, the SystemExit of a signal handler) goes through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any

from bidkv.control.guarded_policy import DEFAULT_TIME_BUDGET_S, GuardedPolicy, describe
from bidkv.control.recompute_ledger import RecomputeLedger
from bidkv.control.sessions import SessionLedger
from bidkv.control.tracked_session import TrackedSession
from bidkv.protocol.observer import Decision, Observer
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionCache, SessionTable

if TYPE_CHECKING:
    from bidkv.stability import QueueingController

logger = logging.getLogger("bidkv")

_NO_IDS: frozenset[str] = frozenset()


class Controller(GuardedPolicy):
    """Carries one policy into one engine.

    Args:
        policy: answers the questions.
        time_budget_s: longest time one answer may take before the policy is switched off; None switches
            the check off (the simulator, whose results must not depend on the machine).
        clock: seconds, monotonic; only measures the policy's answers.
        stability: queueing controller to feed, or None.
        on_decision_time: called with the seconds each victim decision took (a histogram's `observe`).
        observer: told of every decision and of what came of it, or None.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        time_budget_s: float | None = DEFAULT_TIME_BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
        stability: QueueingController | None = None,
        on_decision_time: Callable[[float], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.stability = stability
        self.on_decision_time = on_decision_time
        self._recompute = RecomputeLedger()
        self._sessions: SessionLedger | None = None
        self._finds_if_needed = False
        super().__init__(policy, time_budget_s=time_budget_s, clock=clock, observer=observer)

    def track_sessions(self, cache: SessionCache, *, find_by_prefix: bool | None = True) -> SessionTable:
        """Keep the books of the engine's sessions from now on; return them for the engine's view.

        An engine calls it once, before its first event, if it caches prefixes and can tell what is cached.

        Args:
            cache: the engine's block-level facts.
            find_by_prefix: whether a request without a told session is matched with the past it repeats, at a
                cost of about 0.1 microseconds per token of every request; None does it only while the policy
                drops idle sessions.
        """
        self._finds_if_needed = find_by_prefix is None
        self._sessions = SessionLedger(cache, finds_by_prefix=bool(find_by_prefix))
        self._refresh()
        return self._sessions

    @property
    def sessions(self) -> SessionLedger | None:
        """The books of the engine's sessions; None where they are not kept, or failed."""
        return self._sessions

    def on_cache_reset(self) -> None:
        """The engine threw its whole prefix cache away."""
        if self._sessions is not None:
            self._keep_books(self._sessions.reset)

    def _refresh(self) -> None:
        super()._refresh()
        self.drops_idle = self.drops_idle and self._sessions is not None
        if self._sessions is not None:
            self._sessions.collects_loose_keys = self.drops_idle
            if self._finds_if_needed:
                self._sessions.finds_by_prefix = self._active and self._questions.sessions
        self._victim_ids: Set[str] = _NO_IDS
        self.forget_answers()

    def forget_answers(self) -> None:
        """Ask every question anew: an event happened that may not have been reported here."""
        self._reserve: int | None = None
        self._next: RequestView | None = None
        self._gate_shut = False
        self._drop_answered = False

    # --- questions -------------------------------------------------------------------------------
    def before_step(self, engine: EngineView) -> Sequence[RequestView]:
        """Return the running requests to preempt in the coming step, first choice first.

        Empty unless the step needs more blocks than are free. O(1) while memory is plentiful.
        """
        if self._resync:
            self._tell_everything(engine)
        self._victim_ids = _NO_IDS
        if self.drops_idle:
            self.drop_idle(engine)
        if not self.chooses_victims:
            return ()
        running = len(engine.running)
        if running < 2:
            return ()
        free = engine.free_blocks
        # A request takes at most ceil(tokens / block_size) new blocks of each group, so it is never too low.
        prefill_bound = engine.max_num_batched_tokens // engine.block_size + 1 if engine.num_prefilling else 0
        if free >= (running + prefill_bound) * engine.blocks_per_growth:
            return ()
        need = engine.block_demand(frozenset())
        if need <= free:
            return ()
        return self._choose_victims(engine, need, free)

    def _choose_victims(self, engine: EngineView, need: int, free: int) -> Sequence[RequestView]:
        running = engine.running
        if not (preemptable := engine.preemptable(running)):
            return ()
        candidates = self._candidates(engine, preemptable)
        victims: list[RequestView] = []
        excluded: set[str] = set()
        while need > free and candidates and len(victims) < len(running) - 1:
            engine_choice = _tail(running, excluded)
            victim = self._take(engine, candidates, need - free, engine_choice)
            if victim is None:
                break
            self.counters.overrides += victim is not engine_choice
            victims.append(victim)
            excluded.add(victim.request_id)
            free += engine.freed_blocks(victim)
            need = engine.block_demand(frozenset(excluded))
        self._victim_ids = excluded
        return victims

    def rank_victims(
        self, engine: EngineView, candidates: Sequence[RequestView], need_blocks: int
    ) -> Sequence[RequestView]:
        """Order candidates for an engine that asks for an order: the first to be preempted comes first.

        The order may be partial: only as many as cover `need_blocks`; the engine orders the rest.
        """
        if self._resync:
            self._tell_everything(engine)
        if not self.chooses_victims:
            return ()
        remaining = self._candidates(engine, candidates)
        order: list[RequestView] = []
        while remaining and need_blocks > 0:
            victim = self._take(engine, remaining, need_blocks, None)
            if victim is None:
                break
            order.append(victim)
            need_blocks -= engine.freed_blocks(victim)
        self._victim_ids = {victim.request_id for victim in order}
        return order

    def _candidates(self, engine: EngineView, running: Sequence[RequestView]) -> list[RequestView]:
        """The requests that may be chosen in a step that is short of memory."""
        self.counters.pressured_steps += 1
        candidates = self._cap.eligible(running, engine.most_preemptions)
        self.counters.all_capped += not candidates
        return candidates

    def _take(
        self,
        engine: EngineView,
        candidates: list[RequestView],
        need_blocks: int,
        engine_choice: RequestView | None,
    ) -> RequestView | None:
        """Take the policy's choice out of `candidates`; None where it makes none that is a candidate."""
        victim = self._choose(engine, candidates, need_blocks, engine_choice)
        if victim is None:
            return None
        position = _position(candidates, victim)
        if position is None:
            self._fail("invalid_answer", f"victim {describe(victim)} is not one of the candidates")
            return None
        return candidates.pop(position)

    def _choose(
        self,
        engine: EngineView,
        candidates: Sequence[RequestView],
        need_blocks: int,
        engine_choice: RequestView | None,
    ) -> RequestView | None:
        started = self._clock()
        # A copy: whatever the policy does to the sequence, the controller's own list stays whole.
        victim = self._ask(self._policy.select_victim, tuple(candidates), need_blocks, engine)
        took_s = self._clock() - started
        if self.on_decision_time is not None:
            self.on_decision_time(took_s)
        if not self._active:
            return None
        if self.observer is not None:
            decision = Decision(
                self._policy,
                tuple(candidates),
                need_blocks,
                victim,
                engine_choice,
                self.last_reserve_blocks,
                took_s,
            )
            self._observe(self.observer.decided, decision, engine)
        if victim is None:
            self.counters.abstentions += 1
            return None
        self.counters.decisions += 1
        chosen: RequestView = victim
        return chosen

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the request that enters next, or None to admit none until the next event.

        Call only while :attr:`chooses_next` is true; otherwise the engine's own order holds. After a failure
        of the policy :attr:`chooses_next` is false and None means "go on alone". A policy may hold the gate
        shut only while something runs: on an empty engine no finish would ever open it again.
        """
        if self._resync:
            self._tell_everything(engine)
        if self._gate_shut or not self.chooses_next:
            return None
        if self._next is None:
            if self.drops_idle:
                self.drop_idle(engine)
            self._next = self.check_next(self._ask(self._policy.select_next, engine), engine)
            self._gate_shut = self._next is None and self.chooses_next
        return self._next

    def check_next(self, answer: Any, engine: EngineView) -> RequestView | None:
        """Return what the policy answered to :meth:`Policy.select_next`, if it can enter."""
        if not self._active:
            return None
        if answer is None:
            self.counters.gate_refusals += 1
            return None if engine.running else next(iter(engine.waiting()), None)
        try:
            waits = engine.is_waiting(answer)
        except Exception:  # not a request at all: whatever its attributes do when they are read
            waits = False
        if not waits:
            self._fail("invalid_answer", f"next request {describe(answer)} does not wait")
            return None
        chosen: RequestView = answer
        return chosen

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the blocks an admission must leave free while something runs; asked once per event."""
        if self._resync:
            self._tell_everything(engine)
        if not self.keeps_reserve:
            return 0
        if self._reserve is None:
            answer = self.check_reserve(self._ask(self._policy.reserve_blocks, engine), engine)
            if not self._active:
                return 0
            self._reserve = answer
        return self._reserve

    def check_reserve(self, answer: Any, engine: EngineView) -> int:
        """Return what the policy answered to :meth:`Policy.reserve_blocks`, if it can be kept; else 0."""
        if not self._active:
            return 0
        # The exact type: a subclass of int (bool is one) may compare as it likes.
        if type(answer) is not int or not 0 <= answer <= engine.num_blocks:
            self._fail(
                "invalid_answer",
                f"reserve {describe(answer)} is not an int in [0, {engine.num_blocks}]",
            )
            return 0
        self.last_reserve_blocks = answer
        return answer

    def drop_idle(self, engine: EngineView) -> None:
        """Ask which idle sessions lose their blocks, once an event and while growth could reach them.

        An engine without :meth:`before_step` calls it after every step, while :attr:`drops_idle` is true.
        """
        sessions = self._sessions
        if sessions is None or self._resync:
            return
        if self._drop_answered and engine.free_blocks - sessions.retained_blocks >= engine.num_running:
            return
        self._drop_answered = True
        self._keep_books(sessions.settle)
        while self.drops_idle and sessions.idle:
            session: Any = self._ask(self._policy.select_drop, sessions.idle, engine)
            if session is None or not self._active:
                return
            if not sessions.is_idle(session):
                self._fail("invalid_answer", f"session {describe(session)} is not idle")
                return
            blocks = self._ask_part(session, engine) if sessions.drops_parts else session.exclusive_blocks
            if not self._active:
                return
            if self.observer is not None:
                self._observe(self.observer.session_dropped, self._policy, session, blocks, engine)
            self.counters.session_drops += 1
            self.counters.session_blocks_dropped += self._keep_books(sessions.drop, session, blocks) or 0

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """`request` joined the waiting queue for the first time."""
        self.counters.arrivals += 1
        if self._sessions is not None:
            self._keep_books(self._sessions.arrive, request, engine)
        if self.stability is not None:
            self.stability.record_request_arrival(engine.now_s, request.num_prompt_tokens, request.agent_id)
        self._event(self._policy.on_arrival, request, engine)

    def on_admit(self, request: RequestView, engine: EngineView, cached_tokens: int = 0) -> None:
        """`request` runs now; `cached_tokens` of it came from the prefix cache."""
        self.counters.admissions += 1
        self._recompute.begin(request.request_id, engine.now_s, cached_tokens)
        if self._sessions is not None:
            self._keep_books(self._sessions.admit, request, cached_tokens, engine)
        if self.observer is not None:
            self._observe(self.observer.admitted, request, cached_tokens, engine)
        self._event(self._policy.on_admit, request, engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """`request` was preempted by the engine, by our choice or by its own; it waits again."""
        counters = self.counters
        by_policy = request.request_id in self._victim_ids
        if by_policy:
            counters.preemptions_by_policy += 1
        else:
            counters.preemptions_by_engine += 1
        counters.tokens_lost += lost_tokens
        counters.blocks_freed += -(-lost_tokens // engine.block_size)
        recomputed = self._recompute.preempt(request.request_id, lost_tokens)
        counters.recomputed_tokens += recomputed
        if self._sessions is not None:
            self._keep_books(self._sessions.preempt, request, lost_tokens, engine)
        if self.observer is not None:
            self._observe(
                self.observer.preempted, request, lost_tokens, recomputed, engine, by_policy=by_policy
            )
        self._event(self._policy.on_preempt, request, lost_tokens, engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """`request` left the engine, completed or aborted."""
        counters = self.counters
        if completed:
            counters.completions += 1
        else:
            counters.aborts += 1
        computed = request.num_computed_tokens
        recomputed, admitted_s = self._recompute.end(request.request_id, computed)
        counters.recomputed_tokens += recomputed
        if self.observer is not None:
            self._observe(self.observer.finished, request, recomputed, engine, completed=completed)
        if completed and self.stability is not None and admitted_s is not None:
            self.stability.record_request_completion(
                engine.now_s,
                (engine.now_s - admitted_s) * 1e3,
                -(-computed // engine.block_size),
                request.agent_id,
                mean_blocks=(request.num_prompt_tokens + request.num_output_tokens / 2) / engine.block_size,
            )
        self._event(self._policy.on_finish, request, engine, completed=completed)
        if self._sessions is not None:
            self._end_turn(self._sessions, request, engine)

    def _end_turn(self, sessions: SessionLedger, request: RequestView, engine: EngineView) -> None:
        session: TrackedSession | None = self._keep_books(sessions.finish, request, engine)
        if session is not None:
            self.counters.turns += 1
            self.counters.sessions_ended += session.is_over
            policy = self._policy
            self._event(policy.on_session_end if session.is_over else policy.on_turn_end, session, engine)
        for forgotten in self._keep_books(sessions.take_forgotten, engine) or ():
            self._event(self._policy.on_session_end, forgotten, engine)

    def after_step(self, engine: EngineView, scheduled_tokens: int) -> None:
        """A step was scheduled; O(1)."""
        self.counters.steps += 1
        self.counters.scheduled_tokens += scheduled_tokens

    # --- helpers ---------------------------------------------------------------------------------
    def _keep_books(self, entry: Callable[..., Any], *args: Any) -> Any:
        """Make an entry in the session accounts; if that fails, sessions are off and the engine runs on."""
        try:
            return entry(*args)
        except Exception:  # a fault of ours or of the engine's facts must not reach the engine
            logger.exception("bidkv: the session accounts failed; sessions are left to the engine's cache")
            self.counters.session_failures += 1
            if self._sessions is not None:
                self._sessions.clear()  # a policy may look at them through the engine's view
            self._sessions = None
            self._refresh()
            return None

    def _event(self, handler: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        # Resynchronisation replays the engine's state, this event included, so nothing is told twice.
        self.forget_answers()
        if self._active and not self._resync:
            self._ask(handler, *args, **kwargs)

    def _tell_everything(self, engine: EngineView) -> None:
        """Bring a policy that starts in the middle of a run up to date: every live request has arrived."""
        self._resync = False
        for request in engine.running:
            self._event(self._policy.on_arrival, request, engine)
            self._event(self._policy.on_admit, request, engine)
        for request in engine.waiting():
            self._event(self._policy.on_arrival, request, engine)
        for session in () if self._sessions is None else tuple(self._sessions.idle.values()):
            self._event(self._policy.on_turn_end, session, engine)


def _position(candidates: Sequence[RequestView], victim: object) -> int | None:
    # Identity, not equality: a policy must hand back what it was given, and == may be foreign code. Where
    # it is plain object equality it is identity, and index() finds it in half the time.
    if type(victim) is type(candidates[0]) and type(victim).__eq__ is object.__eq__:
        try:
            return candidates.index(victim)
        except ValueError:
            return None
    for position, candidate in enumerate(candidates):
        if candidate is victim:
            return position
    return None


def _tail(running: Sequence[RequestView], gone: Set[str]) -> RequestView | None:
    """The request that the engine's own rule would preempt next, once those in `gone` are out."""
    for request in reversed(running):
        if request.request_id not in gone:
            return request
    return None
