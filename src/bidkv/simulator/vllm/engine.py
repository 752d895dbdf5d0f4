"""The step engine that schedules as vLLM v1 does, decision for decision.

`VllmStepEngine.step` is vLLM's `Scheduler.schedule` and `update_from_output` in one: the
running list first, preemption by recompute from its tail, then admissions; then time passes and tokens
come out: those of this step, or with asynchronous scheduling those of the step before. The rules are numbered
in docs/reference/simulator.md and referred to by number here.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.simulator.request import SimRequest
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.state import VllmState


class _Launched(NamedTuple):
    """A step on the device: its duration, and the requests whose next token it computes."""

    duration_s: float
    sampled: list[SimRequest]
    empty: bool


class VllmStepEngine(VllmState):
    """One simulated vLLM replica.

    `submit` requests and `step` until it is idle; `finished` belongs to the last step.
    """

    def __init__(self, config: EngineConfig, profile: StepTimeProfile, controller: Controller) -> None:
        super().__init__(config, profile, controller)
        self._in_flight: _Launched | None = None

    # --- driving ---------------------------------------------------------------------------------
    def submit(self, request: SimRequest) -> None:
        """`request` arrives now."""
        if self._cache is not None:
            self._content.place(request)
        self._waiting.append(request)
        self._control.on_arrival(request, self)

    def abort(self, request: SimRequest) -> None:
        """Give up `request` between two steps, whether it runs or waits; what it holds becomes free.

        Raises:
            ValueError: it is not in this engine.
        """
        if request in self._waiting:
            self._waiting.remove(request)
        elif request in self._running:
            self._running.remove(request)
            if request._prefilling:
                request._prefilling = False
                self._num_prefilling -= 1
            self._release(request)
        else:
            raise ValueError(f"{request!r} neither runs nor waits")
        self._expect_nothing_of({request})
        self._end_if_idle()
        self.books.close_life(request, request._num_computed_tokens)
        self._control.on_finish(request, self, completed=False)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits or is being computed."""
        return not self._running and not self._waiting and (self._in_flight is None or self._in_flight.empty)

    def step(self) -> float:
        """Schedule a step and let time pass until the engine can schedule the next; return it in seconds."""
        self._rearrange(self._control.before_step(self))
        self.scheduled = []
        self.preempted = []
        budget = self._schedule_running(self._max_num_batched_tokens)
        if not self.preempted:  # rule 7
            self._admit(budget)
        self.used_blocks_in_step = self._num_blocks - self._free_blocks
        if self._cache is not None:
            self.idle_session_blocks_in_step = self._cache.retained_blocks
        before = self._num_scheduled_tokens
        arriving: _Launched | None = self._launch()
        if self._asynchronous:  # rule 18
            arriving, self._in_flight = self._in_flight, arriving
        duration = 0.0
        self.finished = []
        if arriving is not None:
            duration = arriving.duration_s
            self._now_s += duration
            self._deliver(arriving.sampled)
        self._end_if_idle()
        self._control.after_step(self, self._num_scheduled_tokens - before)
        return duration

    def _end_if_idle(self) -> None:
        if self._asynchronous and self.idle:
            self._in_flight = None  # it computes nothing, and no request waits for its end

    def _rearrange(self, victims: Sequence[Any]) -> None:
        """Move victims to the tail, first choice last, so that the engine's own rule evicts exactly them."""
        self._victims = list(victims)
        if not victims:
            return
        chosen = {victim.request_id for victim in victims}
        self._running = [r for r in self._running if r.request_id not in chosen]
        self._running.extend(reversed(victims))

    def _schedule_running(self, budget: int) -> int:
        running = self._running
        size = self._block_size
        threshold = self.config.long_prefill_token_threshold
        lag = self._asynchronous
        cached = self._cache is not None
        groups = self._groups
        scheduled = self.scheduled
        index = 0
        while index < len(running) and budget > 0:
            request = running[index]
            computed = request._num_computed_tokens
            tokens = request._num_tokens + request._coming - computed
            if tokens != 1 or lag:  # else a decode, whose one token always fits the budget and the request
                if 0 < threshold < tokens and len(running) + len(self._waiting) > 1:
                    tokens = threshold
                tokens = min(tokens, budget, request._limit_tokens - 1 - computed)  # rules 3 and 19
                if tokens <= 0:
                    index += 1
                    continue
            if groups is None:
                need = -(-(computed + tokens) // size) - request._num_held_blocks
            else:
                self._give_back(groups, request)
                need = groups.count_missing(request, computed + tokens)
            fits = True
            while need > self._free_blocks:  # rule 4
                victim = self._pop_engine_victim()
                position = running.index(victim) if self._by_priority else len(running) - 1
                del running[position]
                if position < index:
                    # Rule 4: a victim that this step had scheduled is taken back from it.
                    budget += self._unschedule(victim)
                    index -= 1
                self._preempt(victim)
                if victim is request:  # rule 5
                    fits = False
                    break
            if not fits:
                break
            if need > 0 or cached:
                self._allocate(request, need, computed + tokens)
            scheduled.append((request, tokens))
            budget -= tokens
            index += 1
        return budget

    def _pop_engine_victim(self) -> SimRequest:
        if self._by_priority:
            if self._victims:  # as the adapter does: it raises their priority numbers for the step
                return self._victims.pop(0)
            return max(self._running, key=lambda r: (r.priority, r.arrival_s))
        return self._running[-1]

    def _unschedule(self, victim: SimRequest) -> int:
        for position, (request, tokens) in enumerate(self.scheduled):
            if request is victim:
                del self.scheduled[position]
                return tokens
        return 0

    def _preempt(self, request: SimRequest) -> None:
        """Rule 6: give up all blocks and computed positions, keep the generated tokens."""
        lost = request._num_computed_tokens
        if request._prefilling:
            request._prefilling = False
            self._num_prefilling -= 1
        self._release(request)
        request._num_computed_tokens = 0
        request._coming = 0  # rule 20: a token in flight still arrives, but no longer belongs to a life
        request._num_preemptions += 1
        self.books.close_life(request, lost)
        self.num_preemptions += 1
        self.preempted.append(request)
        self._waiting.prepend(request)
        self._control.on_preempt(request, lost, self)

    def _admit(self, budget: int) -> None:
        control = self._control
        waiting = self._waiting
        running = self._running
        size = self._block_size
        config = self.config
        groups = self._groups
        while budget > 0 and waiting and len(running) < self._max_num_seqs:  # rule 8
            request = waiting.head()
            if control.chooses_next:
                chosen: Any = control.select_next(self)
                if chosen is not None:
                    request = chosen
                elif control.chooses_next:
                    break  # the policy keeps the gate closed; after a failure chooses_next would be False
            hits = self._cached_prefix(request)
            cached = len(hits) * size
            tokens = request._num_tokens - cached
            threshold = config.long_prefill_token_threshold
            if 0 < threshold < tokens and len(running) + len(waiting) > 1:
                tokens = threshold
            if tokens > budget:
                if not config.enable_chunked_prefill:  # rule 11
                    break
                tokens = budget
            whole = min(request._num_tokens, self._model_len)
            if groups is None:
                blocks, most = -(-(cached + tokens) // size) - len(hits), -(-whole // size) - len(hits)
            else:
                blocks, most = groups.count_missing(request, tokens), groups.count_most(whole)
            needed = max(blocks, most) if config.reserve_full_isl else blocks  # rules 9 and 24
            if self._cache is not None:
                needed += self._cache.count_free(hits)
            if needed > self._free_blocks:
                break  # whatever the reserve is, so the policy is not asked for it
            if running:  # rule 10
                kept_free = max(config.watermark_blocks, control.reserve_blocks(self))
                if needed + kept_free > self._free_blocks:
                    break
            waiting.remove(request)
            if self._cache is not None:
                self._cache.touch(hits)
                request._blocks = hits
                request._labeled_blocks = len(hits)
            request._num_held_blocks = len(hits)
            request._num_computed_tokens = cached
            self.books.open_life(request, cached)
            self._allocate(request, blocks, cached + tokens)
            running.append(request)
            self.scheduled.append((request, tokens))
            request._prefilling = True
            self._num_prefilling += 1
            budget -= tokens
            control.on_admit(request, self, cached)

    def _launch(self) -> _Launched:
        """Hand what was scheduled to the device; its positions count as computed from now on."""
        prefill_tokens = 0
        attention = 0.0
        prefills = 0
        decodes = 0
        context = 0
        sampled = []
        for request, tokens in self.scheduled:
            computed = request._num_computed_tokens
            end = computed + tokens
            known = request._num_tokens + request._coming
            context += end
            if tokens == 1 and known - computed == 1:
                decodes += 1
            else:
                prefills += 1
                prefill_tokens += tokens
                attention += tokens * (computed + tokens * 0.5)
            request._num_computed_tokens = end
            if end == known:  # rule 12
                if request._prefilling:
                    request._prefilling = False
                    self._num_prefilling -= 1
                request._coming += 1
                sampled.append(request)
        self._num_scheduled_tokens += prefill_tokens + decodes
        self._num_steps += 1
        if self.scheduled:
            duration_s = self._profile.step_s(prefill_tokens, attention, decodes, context, prefills)
        else:
            duration_s = self._profile.empty_step_s  # rule 13
        return _Launched(duration_s, sampled, empty=not self.scheduled)

    def _deliver(self, sampled: Sequence[SimRequest]) -> None:
        """A step's tokens come out; complete requests leave."""
        cache = self._cache
        self.books.take_tokens(sampled, self._now_s)
        for request in sampled:
            request._num_tokens += 1
            if request._coming:
                request._coming -= 1
                if cache is not None and self._asynchronous:  # rule 21
                    self._label(cache, request, request._num_computed_tokens - request._coming)
            if request._num_tokens >= request._target_tokens:
                self.finished.append(request)
        if self.finished:
            self._retire()

    def _retire(self) -> None:
        gone = set(self.finished)
        self._expect_nothing_of(gone)
        for request in self.finished:
            if request in self._waiting:  # preempted while its last token was on its way
                self._waiting.remove(request)
            session_goes_on = bool(request._source.session_id) and not request._ends_session
            self._release(request, session_goes_on=session_goes_on)
            self.books.close_life(request, request._num_computed_tokens)
            self._control.on_finish(request, self, completed=True)
        # As vLLM does: all requests that end with one step leave its list together, after the last of them.
        self._running = [request for request in self._running if request not in gone]

    def _expect_nothing_of(self, gone: Set[SimRequest]) -> None:
        """Drop what the step in flight computes for requests that have left."""
        if self._in_flight is not None:
            sampled = [request for request in self._in_flight.sampled if request not in gone]
            self._in_flight = self._in_flight._replace(sampled=sampled)
