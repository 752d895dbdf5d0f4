"""The step engine that schedules as SGLang does: prefill batches before decode batches, and retraction.

One :meth:`SglangStepEngine.step` is one turn of SGLang's event loop. Its rules, by number in
docs/reference/simulator.md:

S1. A prefilled request joins the decode batch at its tail; a prompt still in chunks waits beside it.
S2. A prefill batch goes before a decode batch. After the pool was found full, admission stays closed until a
    request has left.
S3. An admission reserves prompt + one page + its output (clipped); running requests reserve the output they
    may still generate times `new_token_ratio`.
    A request's output is capped on arrival by what the empty pool could hold beside its prompt.
S4. A decode step that does not fit retracts: fewest generated tokens first, of those the longest prompt; at
    least one, never the last one; the survivors' order is the sorted one from then on.
S5. A retraction sets `new_token_ratio` anew from what was generated; every other decode step lowers it.
S6. Retracted requests go to the tail of the queue, generated tokens kept.
S7. The last request that does not fit alone is aborted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from bidkv.simulator.request import SimRequest
from bidkv.simulator.sglang.admission import PrefillBudget
from bidkv.simulator.sglang.state import SglangState


class SglangStepEngine(SglangState):
    """One simulated SGLang replica.

    `submit` requests and `step` until it is idle. `finished` and `aborted` (rule S7) belong to the last step.
    """

    # --- driving ---------------------------------------------------------------------------------
    def submit(self, request: SimRequest) -> None:
        """`request` arrives now."""
        if self.idle and self._now_s > self._last_end_s:
            self.new_token_ratio = self.config.initial_ratio  # SGLang resets it when the server was idle
        prompt = request.num_prompt_tokens
        room = self.config.clip_new_tokens(prompt, None)
        if request.max_tokens is not None and request.max_tokens >= room:
            request._max_tokens = None  # as the adapter shows it: the cap says nothing
        request._limit_tokens = prompt + self.config.clip_new_tokens(prompt, request.max_tokens)
        request._target_tokens = min(request._target_tokens, request._limit_tokens)
        self._waiting.append(request)
        self._control.on_arrival(request, self)

    def abort(self, request: SimRequest) -> None:
        """Give up `request` between two batches, whether it runs or waits; what it holds becomes free.

        Raises:
            ValueError: it is not in this engine.
        """
        if request in self._waiting:
            self._waiting.remove(request)
        elif request.request_id in self._admissions:
            self._decoding = [other for other in self._decoding if other is not request]
            self._prefilled = [other for other in self._prefilled if other is not request]
            self._chunked = None if self._chunked is request else self._chunked
            self._full = False
            self._release(request)
        else:
            raise ValueError(f"{request!r} neither runs nor waits")
        self.books.close_life(request, request._num_computed_tokens)
        self._admissions.pop(request.request_id, None)
        self._control.on_finish(request, self, completed=False)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not (self._waiting or self._decoding or self._prefilled or self._chunked)

    def step(self) -> float:
        """Schedule and run one batch; return its duration in seconds and advance the clock by it."""
        self.scheduled, self.preempted, self.finished, self.aborted = [], [], [], []
        self._join_prefilled()
        self._prefill()
        decoding = [] if self.scheduled else self._decode()
        self.used_blocks_in_step = self._num_blocks - self._free_blocks
        self._control.after_step(self, sum(n for _, n in self.scheduled))
        duration = self._run(decoding)
        self._last_end_s = self._now_s
        return duration

    def _join_prefilled(self) -> None:
        """Rule S1."""
        joining = [request for request in self._prefilled if request is not self._chunked]
        if len(joining) < len(self._prefilled) or not self._decoding:
            self._full = False
        self._decoding += joining
        self._prefilled = []

    # --- prefill ---------------------------------------------------------------------------------
    def _prefill(self) -> None:
        if not self._decoding:
            self._full = False
        if (self._full or not self._waiting) and self._chunked is None:  # rule S2
            return
        slots = self.config.max_running_requests - len(self._decoding)
        if slots <= 0 and self._chunked is None:
            self._full = True
            return
        budget = PrefillBudget(self.config, self._free_blocks * self._block_size, self._promised_tokens())
        batch = self._prefilled  # an admitted request runs at once
        if self._chunked is not None:
            self._continue_chunk(self._chunked, budget, batch)
        self._admit(budget, batch, slots)
        for request, tokens in self.scheduled:
            self._grow(request, request._num_computed_tokens + tokens)

    def _promised_tokens(self) -> float:
        clip, ratio = self.config.clip_max_new_tokens, self.new_token_ratio
        # Summed in the real engine's order: a sum of floats depends on it.
        return sum([min(self._output_left(r), clip) * ratio for r in self._decoding])

    def _continue_chunk(self, request: SimRequest, budget: PrefillBudget, batch: list[SimRequest]) -> None:
        missing = request._num_tokens - request._num_computed_tokens
        tokens = budget.continued_chunk(missing)
        whole = tokens == missing
        batch.append(request)
        self.scheduled.append((request, tokens))
        budget.reserve(tokens, min(self._cap(request), self.config.clip_max_new_tokens) if whole else 0)
        if whole:
            self._chunked = None

    def _admit(self, budget: PrefillBudget, batch: list[SimRequest], slots: int) -> None:
        """Rule S3: admit until a budget, the gate or the memory stops it."""
        control, clip = self._control, self.config.clip_max_new_tokens
        while self._waiting:
            if budget.spent and not budget.out_of_memory:
                return
            if len(batch) >= slots:
                self._full = True
            if self._full:
                return
            request = self._next()
            if request is None:
                return
            missing = request._num_tokens
            if not self._keeps_reserve(missing, budget) or not budget.fits(
                missing, min(self._output_left(request), clip)
            ):
                self._full = bool(batch or self._decoding)
                return
            tokens = budget.first_chunk(missing, alone=not batch)
            if tokens <= 0:
                return
            self._waiting.remove(request)
            batch.append(request)
            self.scheduled.append((request, tokens))
            if tokens < missing:
                self._chunked = request
            budget.reserve(tokens, min(self._cap(request), clip) if tokens == missing else 0)
            self._num_admissions += 1
            self._admissions[request.request_id] = self._num_admissions
            self.books.open_life(request, 0)
            control.on_admit(request, self)
            if budget.out_of_memory:
                self._full = True
                return

    def _next(self) -> SimRequest | None:
        control = self._control
        if control.chooses_next:
            chosen = control.select_next(self)
            if chosen is not None:
                return cast(SimRequest, chosen)
            if control.chooses_next:
                return None  # the policy keeps the gate closed; after a failure chooses_next would be False
        return self._waiting.head()

    def _keeps_reserve(self, tokens: int, budget: PrefillBudget) -> bool:
        if not self._control.keeps_reserve or not self.running:
            return True
        reserve = self._control.reserve_blocks(self)
        return reserve == 0 or budget.leaves_free(tokens) >= reserve * self._block_size

    # --- decode and retraction -------------------------------------------------------------------
    def _decode(self) -> list[SimRequest]:
        before = len(self._decoding)
        if before == 0:
            return []
        if self._pages_to_decode(self._decoding) > self._free_blocks:
            self._retract()
        else:
            config = self.config
            self.new_token_ratio = max(self.new_token_ratio - config.ratio_decay, config.least_ratio)
        if len(self._decoding) < before:
            self._full = False
        for request in self._decoding:
            self._grow(request, request._num_computed_tokens + 1)
            self.scheduled.append((request, 1))
        return self._decoding

    def _retract(self) -> None:
        """Rules S4 to S7."""
        keep = self._retraction_order()
        gone: list[tuple[SimRequest, int]] = []
        while len(keep) > 1 and (not gone or self._pages_to_decode(keep) > self._free_blocks):
            request = keep.pop()
            gone.append((request, request._num_computed_tokens))
            self._release(request)
            request._num_computed_tokens = 0
            request._num_preemptions += 1
        if len(keep) == 1 and self._pages_to_decode(keep) > self._free_blocks:
            self._abort(keep.pop())
        self._decoding = keep
        generated = sum(request.num_output_tokens for request in keep)
        allowed = sum(self._cap(request) for request in keep)
        promised = generated + self.config.retract_decode_steps * len(keep)
        self.new_token_ratio = min(1.0, promised / (allowed + 1))
        for request, lost in gone:
            self.num_preemptions += 1
            self.preempted.append(request)
            self.books.close_life(request, lost)
            self._waiting.append(request)
            self._control.on_preempt(request, lost, self)

    def _retraction_order(self) -> list[SimRequest]:
        """Return the decoding requests, those to keep first; the policy's first choice comes last."""

        def rank(request: SimRequest) -> tuple[int, int]:
            return request.num_output_tokens, -request.num_prompt_tokens

        order = sorted(self._decoding, key=rank, reverse=True)
        if not self._control.chooses_victims or len(order) < 2:
            return order
        need = max(1, self._pages_to_decode(order) - self._free_blocks)
        candidates = sorted(self._decoding, key=self._admission)
        victims = cast("Sequence[SimRequest]", self._control.rank_victims(self, candidates, need))
        chosen = {victim.request_id for victim in victims}
        return [r for r in order if r.request_id not in chosen] + list(reversed(victims))

    def _abort(self, request: SimRequest) -> None:
        self.books.close_life(request, request._num_computed_tokens)
        self._release(request)
        del self._admissions[request.request_id]
        self.aborted.append(request)
        self._control.on_finish(request, self, completed=False)

    # --- time ------------------------------------------------------------------------------------
    def _run(self, decoding: Sequence[SimRequest]) -> float:
        """Run the batch: the clock and the positions advance, tokens come out, finished requests leave."""
        tokens = sum(n for _, n in self.scheduled)
        context = sum(r._num_computed_tokens + n for r, n in self.scheduled)
        if decoding:
            duration = self._profile.step_s(0, 0.0, len(decoding), context, 0)
        elif self.scheduled:
            attention = sum(n * (r._num_computed_tokens + n * 0.5) for r, n in self.scheduled)
            duration = self._profile.step_s(tokens, attention, 0, context, len(self.scheduled))
        else:
            duration = self._profile.empty_step_s
        self._now_s += duration
        self._num_steps += 1
        self._num_scheduled_tokens += tokens
        sampled: list[SimRequest] = []
        for request, count in self.scheduled:
            request._num_computed_tokens += count
            if request._num_computed_tokens == request._num_tokens:
                request._num_tokens += 1
                sampled.append(request)
                if request._num_tokens >= request._target_tokens:
                    self.finished.append(request)
        self.books.take_tokens(sampled, self._now_s)
        if self.finished:
            self._retire()
        return duration

    def _retire(self) -> None:
        gone = set(map(id, self.finished))
        decoding = [request for request in self._decoding if id(request) not in gone]
        prefilled = [request for request in self._prefilled if id(request) not in gone]
        if len(decoding) < len(self._decoding) or len(prefilled) < len(self._prefilled):
            self._full = False
        self._decoding, self._prefilled = decoding, prefilled
        for request in self.finished:
            self._release(request)
            self.books.close_life(request, request._num_computed_tokens)
            self._control.on_finish(request, self, completed=True)
            del self._admissions[request.request_id]
