"""Drives the compiled kernel: feeds arrivals, answers its questions with the policy, collects results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, RequestRecord, TimelinePoint
from bidkv.simulator.arrivals import InOrder, LiveRequestIds, make_rejection
from bidkv.simulator.progress import PROGRESS_EVERY, ProgressCallback, RecordCallback
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.kernel import run_kernel
from bidkv.simulator.vllm.compiled.views import KernelView
from bidkv.simulator.vllm.config import EngineConfig

_CHUNK = 4096
_FIRST_SLOTS = 256

# A module's own names are found faster than another module's.
_NEED_INPUT, _EVENT_SLOT, _NEXT_SLOT = at.NEED_INPUT, at.EVENT_SLOT, at.NEXT_SLOT


class CompiledRun:
    """One workload through one compiled replica; `to_end` runs it; attributes hold what came out but records.

    `run_until` stops on the way, and goes on with what its source has by then.

    Args:
        leap: take uneventful decode steps in a tight loop; False steps one by one (for comparison).
    """

    def __init__(
        self,
        config: EngineConfig,
        profile: StepTimeProfile,
        controller: Controller,
        requests: Iterable[WorkloadRequest],
        on_record: RecordCallback,
        progress: ProgressCallback | None,
        timeline_points: int,
        *,
        leap: bool = True,
    ) -> None:
        self._on_record = on_record
        self._records = 0
        self._config = config
        self._control = controller
        self._source = InOrder(requests)
        self._inside = LiveRequestIds()
        self._progress = progress
        self._live: dict[int, WorkloadRequest] = {}
        self._uid = 0
        self._first_arrival_s = 0.0
        self._ints = np.zeros((at.INT_ROWS, _FIRST_SLOTS), np.int64)
        self._floats = np.zeros((at.FLOAT_ROWS, _FIRST_SLOTS))
        self._free_slots = np.arange(_FIRST_SLOTS, dtype=np.int64)
        self._running = np.zeros(config.max_num_seqs, np.int64)
        self._scheduled = np.zeros((2, config.max_num_seqs + 1), np.int64)
        self._state = _initial_state(config, profile, leap)
        # A memoryview reads and writes single numbers several times faster than an array does.
        self._words: memoryview[int] = memoryview(self._state)
        self._clock = np.zeros(at.FLOAT_SCALARS)
        self._clock[at.EMPTY_STEP_S] = profile.empty_step_s
        self._clock[at.UNTIL_S] = -math.inf
        self._in_s = np.zeros(_CHUNK)
        self._in = np.zeros((3, _CHUNK), np.int64)
        self._out = np.zeros((3, _CHUNK), np.int64)
        self._out_s = np.zeros((2, _CHUNK))
        self._timeline = np.zeros((4, timeline_points), np.int64)
        self._timeline_s = np.zeros(timeline_points)
        self._coefficients = np.array(profile.coefficients()).reshape(3, 2, -1)
        self._padded = np.array(profile.padded, np.int64)
        self._decode_lines = np.array(profile.decode_lines(config.max_num_seqs))
        self._crossing = np.zeros(config.block_size, np.int64)
        self.view = KernelView(config, self._ints, self._running, self._state, self._clock, self._live)
        self._handlers: dict[int, Callable[[], None]] = {
            at.NEED_SLOTS: self._grow,
            at.OUTPUT_FULL: self._drain,
            at.ASK_VICTIMS: self._choose_victims,
            at.ASK_NEXT: self._choose_next,
            at.ASK_RESERVE: self._ask_reserve,
        }
        self._bind()
        self._listen()

    def _bind(self) -> None:
        """What the kernel works on; some of the arrays are replaced by larger ones."""
        self._stops = run_kernel(
            at.Tables(
                requests=self._ints,
                times=self._floats,
                running=self._running,
                scheduled=self._scheduled,
                free_slots=self._free_slots,
                state=self._state,
                clock=self._clock,
                input_s=self._in_s,
                inputs=self._in,
                outputs=self._out,
                outputs_s=self._out_s,
                timeline=self._timeline,
                timeline_s=self._timeline_s,
                coefficients=self._coefficients,
                padded=self._padded,
                decode_lines=self._decode_lines,
                crossing=self._crossing,
            )
        )

    def _listen(self) -> None:
        """Tell the kernel what the policy wants to be asked and told; it leaves Python alone otherwise."""
        state, control = self._state, self._control
        self._heard = control.active
        self._watched = control.observer is not None
        state[at.CHOOSES_VICTIMS] = control.chooses_victims
        state[at.CHOOSES_NEXT] = control.chooses_next
        state[at.KEEPS_RESERVE] = control.keeps_reserve
        for reason, flag, event, tell in _EVENTS:
            overridden = getattr(type(control.policy), event) is not getattr(Policy, event)
            state[flag] = (control.active and overridden) or self._watched
            # The kernel counts by itself: where nobody watches, the controller keeps no books.
            hear: Callable[..., None] = getattr(control, event)
            if not self._watched:
                hear = control.guarded(getattr(control.policy, event))
            self._handlers[reason] = partial(tell, self, hear)

    def to_end(self) -> None:
        """Run the whole workload."""
        self._clock[at.UNTIL_S] = -math.inf
        while self._advance() == at.NEED_INPUT:
            self._feed(list(islice(self._source, _CHUNK)))
        self._drain()
        self._count()

    def run_until(self, until_s: float) -> None:
        """Take every step that starts before `until_s`; the source has all that arrives before it."""
        incoming = list(self._source)
        if incoming:
            self._feed(incoming)
        self._clock[at.UNTIL_S] = until_s
        self._advance()
        self._drain()

    def _advance(self) -> int:
        """Run and answer the kernel's questions until it is done or needs input; return which."""
        handlers, view, breaker = self._handlers, self.view, self._control.breaker
        while True:
            reason: int = next(self._stops)
            view.running_now = None
            if reason <= _NEED_INPUT:
                return reason
            handlers[reason]()
            if breaker.is_open and self._heard:  # a policy that failed is asked and told nothing more
                self._ints[at.NAMED] = 0
                self._listen()

    def _count(self) -> None:
        """Fill the controller's counters: it was told only of the events its policy listens to."""
        state, counters = self._state, self._control.counters
        counters.arrivals = int(state[at.ARRIVALS])
        counters.admissions = int(state[at.ADMISSIONS])
        counters.completions = int(state[at.COMPLETIONS])
        counters.steps = int(state[at.STEPS])
        counters.scheduled_tokens = int(state[at.SCHEDULED_TOKENS])
        counters.recomputed_tokens = int(state[at.RECOMPUTED])
        counters.preemptions_by_policy = int(state[at.PREEMPTED_BY_POLICY])
        counters.preemptions_by_engine = int(state[at.PREEMPTION_TOTAL]) - counters.preemptions_by_policy
        counters.blocks_freed = int(state[at.BLOCKS_FREED])
        counters.tokens_lost = int(state[at.TOKENS_LOST])

    # --- input and output ------------------------------------------------------------------------
    def _feed(self, incoming: Sequence[WorkloadRequest]) -> None:
        """Hand the kernel what arrives next, behind what it has not taken yet; none: it had the last."""
        self._drain()
        state, model_len = self._state, self._config.model_len
        taken, length = int(state[at.INPUT_POSITION]), int(state[at.INPUT_LENGTH])
        count = length - taken
        rows, rows_s = self._in, self._in_s
        needed = count + len(incoming)
        if needed > len(rows_s):
            self._in_s, self._in = np.zeros(2 * needed), np.zeros((3, 2 * needed), np.int64)
        self._in_s[:count], self._in[:, :count] = rows_s[taken:length], rows[:, taken:length]
        if rows is not self._in:
            self._bind()
        arrivals_s: list[float] = []
        columns: list[tuple[int, int, int]] = []
        if self._uid == 0 and incoming:
            self._first_arrival_s = self._clock[at.NOW_S] = incoming[0].arrival_s
        enter, live = self._inside.enter, self._live
        for uid, request in enumerate(incoming, self._uid):
            prompt, output, cap = request.prompt_tokens, request.output_tokens, request.max_tokens
            if prompt >= model_len:
                self._hand_out(make_rejection(request, model_len))
                continue
            enter(request.request_id)
            live[uid] = request
            arrivals_s.append(request.arrival_s)
            target = prompt + (output if cap is None or output < cap else cap)
            columns.append((uid, prompt, target if target < model_len else model_len))
        self._uid += len(incoming)
        if columns:  # as a whole: setting single items of an array costs more than all the rest here
            taken, count = count, count + len(columns)
            self._in_s[taken:count] = arrivals_s
            self._in[:, taken:count] = np.array(columns).T
        state[at.INPUT_POSITION] = 0
        state[at.INPUT_LENGTH] = count
        state[at.INPUT_LAST] = not incoming

    def _grow(self) -> None:
        """Double the tables; every slot of the old ones is in use."""
        slots = self._ints.shape[1]
        self._ints = np.concatenate((self._ints, np.zeros_like(self._ints)), axis=1)
        self._floats = np.concatenate((self._floats, np.zeros_like(self._floats)), axis=1)
        self._free_slots = np.concatenate((np.arange(slots, 2 * slots), np.zeros(slots, np.int64)))
        self._state[at.FREE_SLOTS] = slots
        self._bind()
        self.view.rebind(self._ints)

    def _drain(self) -> None:
        count = self._words[at.OUTPUT_LENGTH]
        if not count:
            return
        self._words[at.OUTPUT_LENGTH] = 0
        columns = (*self._out[:, :count].tolist(), *self._out_s[:, :count].tolist())
        pop, leave, views, progress = self._live.pop, self._inside.leave, self.view.views, self._progress
        for uid, tokens, preemptions, first_s, finish_s in zip(*columns, strict=True):
            request = pop(uid)
            leave(request.request_id)
            if views:
                views.pop(uid, None)
            self._hand_out(
                RequestRecord(
                    request.request_id,
                    request.arrival_s,
                    request.prompt_tokens,
                    tokens,
                    first_s,
                    finish_s,
                    preemptions,
                    cached_tokens=0,
                )
            )
            if progress is not None and self._records % PROGRESS_EVERY == 0:
                progress(self._records, finish_s)

    def _hand_out(self, record: RequestRecord) -> None:
        self._records += 1
        self._on_record(record)

    # --- the policy's answers --------------------------------------------------------------------
    def _choose_victims(self) -> None:
        victims: Any = self._control.before_step(self.view)
        if victims:
            chosen = [victim._slot for victim in victims]
            self.view.name_victims(chosen)
            running = self._running[: self._words[at.RUNNING_COUNT]]
            order = [slot for slot in running.tolist() if slot not in chosen]
            order.extend(reversed(chosen))
            running[:] = order

    def _choose_next(self) -> None:
        # The kernel remembers answers itself and asks again only after an event the policy may not listen to.
        chosen: Any = self._control.ask_next(self.view)
        if chosen is not None:
            self._words[_NEXT_SLOT] = chosen._slot
        elif self._control.chooses_next:
            self._words[at.GATE_SHUT] = 1

    def _ask_reserve(self) -> None:
        self._words[at.RESERVE] = self._control.ask_reserve(self.view)

    # --- what the policy is told -----------------------------------------------------------------
    def _tell(self, hear: Callable[..., None]) -> None:
        view = self.view
        hear(view.request(self._words[_EVENT_SLOT]), view)

    def _tell_preempt(self, hear: Callable[..., None]) -> None:
        view, words = self.view, self._words
        hear(view.request(words[_EVENT_SLOT]), words[at.EVENT_LOST], view)

    def _tell_finish(self, hear: Callable[..., None]) -> None:
        view = self.view
        hear(view.request(self._words[_EVENT_SLOT]), view, completed=True)

    # --- what came out ---------------------------------------------------------------------------
    @property
    def totals(self) -> EngineTotals:
        """The counters of the run."""
        state = self._state
        return EngineTotals(
            steps=int(state[at.STEPS]),
            scheduled_tokens=int(state[at.SCHEDULED_TOKENS]),
            recomputed_tokens=int(state[at.RECOMPUTED]),
            preemptions=int(state[at.PREEMPTION_TOTAL]),
            used_block_seconds=float(self._clock[at.USED_BLOCK_SECONDS]),
            usable_blocks=self._config.usable_blocks,
            busy_s=max(0.0, float(self._clock[at.LAST_FINISH_S]) - self._first_arrival_s),
        )

    @property
    def simulated_s(self) -> float:
        """The simulated clock."""
        return float(self._clock[at.NOW_S])

    @property
    def timeline(self) -> list[TimelinePoint]:
        """The engine's state over time."""
        count = int(self._state[at.TIMELINE_LENGTH])
        rows = zip(self._timeline_s[:count].tolist(), *self._timeline[:, :count].tolist(), strict=True)
        return [TimelinePoint(*row) for row in rows]


_EVENTS: tuple[tuple[int, int, str, Callable[..., None]], ...] = (
    (at.TELL_ARRIVAL, at.HEARS_ARRIVAL, "on_arrival", CompiledRun._tell),
    (at.TELL_ADMIT, at.HEARS_ADMIT, "on_admit", CompiledRun._tell),
    (at.TELL_PREEMPT, at.HEARS_PREEMPT, "on_preempt", CompiledRun._tell_preempt),
    (at.TELL_FINISH, at.HEARS_FINISH, "on_finish", CompiledRun._tell_finish),
)
"""What the kernel stops to tell: the flag that somebody hears it, who hears it, and how that one is told."""


def _initial_state(config: EngineConfig, profile: StepTimeProfile, leap: bool) -> Any:
    state = np.zeros(at.INT_SCALARS, np.int64)
    state[at.BLOCK_SIZE] = config.block_size
    state[at.NUM_BLOCKS] = state[at.FREE] = config.usable_blocks
    state[at.MAX_SEQS] = config.max_num_seqs
    state[at.BUDGET_MAX] = config.max_num_batched_tokens
    state[at.THRESHOLD] = config.long_prefill_token_threshold
    state[at.MODEL_LEN] = config.model_len
    state[at.WATERMARK] = config.watermark_blocks
    state[at.CHUNKED] = config.enable_chunked_prefill
    state[at.FULL_ISL] = config.reserve_full_isl
    state[[at.HEAD, at.TAIL, at.NEXT_SLOT, at.RESERVE, at.RECYCLE]] = -1
    state[at.FREE_SLOTS] = _FIRST_SLOTS
    state[at.TIMELINE_STRIDE] = 1
    state[at.GRAPH_LIMIT] = profile.prefill_graph_max_tokens
    state[at.LEAP] = leap
    return state
