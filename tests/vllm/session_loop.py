"""Sessions in closed loop in vLLM's own engine core and scheduler, without a model, and in the simulator.

Both sides are fed by the same kind of source: a turn arrives its gap after the tokens of the previous answer
came out of that side's engine. A step takes a second on either.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, cast
from unittest.mock import patch

from tests.vllm.cases import Case, EngineShape, Step
from tests.vllm.harness import MAX_STEPS, AsyncScheduler, Scheduler, SecondClock, build_scheduler
from tests.vllm.lagged import STOP_TOKEN, Worker, _at_work, _core
from tests.vllm.ours import build_ours
from tests.vllm.session_prompts import SessionPrompts
from tests.vllm.simulated import OneSecondSteps, engine_config
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from bidkv.control import Controller
from bidkv.policy.parts.classes import WithinClasses
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.session_views import SessionView
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results import Outcome, RequestRecord
from bidkv.simulator import SessionSource, SimRequest, VllmStepEngine
from bidkv.simulator.arrivals import Arrival
from bidkv.simulator.books import TokenBooks
from bidkv.simulator.stepping import SteppingRun


@dataclasses.dataclass(frozen=True, slots=True)
class SessionCase:
    """One engine, the sessions it serves and when they start."""

    case: Case
    sessions: tuple[Session, ...]
    arrivals: SessionArrivals
    patience_s: float | None

    def make_source(self) -> SessionSource:
        """Return a fresh source of the turns."""
        return SessionSource(self.sessions, self.arrivals, patience_s=self.patience_s)


@dataclasses.dataclass
class Run:
    """What a run did.

    Attributes:
        steps: requests scheduled and preempted in every step.
        hits: (request, tokens found in the cache) of every admission, in order.
        free_blocks: the free queue when each step had been scheduled.
        left: (request, second, whether it was completed) in the order of leaving.
        drops: (session, blocks moved to the front of the free queue) of every drop, in order.
    """

    steps: list[Step] = dataclasses.field(default_factory=list)
    hits: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    free_blocks: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    left: list[tuple[str, float, bool]] = dataclasses.field(default_factory=list)
    drops: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def note_drops(self, controller: Controller) -> None:
        """Note every session that the policy drops."""
        sessions = controller.sessions
        if sessions is None:
            return
        drop = sessions.drop

        def noting_drop(session: SessionView, blocks: int) -> int:
            moved = drop(session, blocks)
            self.drops.append((session.session_id, moved))
            return moved

        sessions.drop = noting_drop  # type: ignore[method-assign]


def random_session_case(seed: int, *, scheduling_policy: str = "fcfs") -> SessionCase:
    """A seeded case whose sessions outgrow the memory together; each fits it alone."""
    rng = random.Random(seed)
    longest_new, longest_output = rng.choice(((60, 30), (150, 60), (300, 40), (40, 100)))
    most_turns = rng.choice((2, 4, 7))
    sessions = tuple(
        _random_session(rng, f"s{number:02d}", longest_new, longest_output, most_turns, scheduling_policy)
        for number in range(rng.randint(6, 20))
    )
    longest = max(
        prompt + turn.output_tokens
        for session in sessions
        for prompt, turn in zip(session.prompt_lengths(), session.turns, strict=True)
    )
    # The adapter shows no cap that says no more than the model's length, so no cap here reaches that.
    max_model_len = longest + 8
    need = -(-max_model_len // 16)
    concurrent = rng.randint(3, 8)
    chunked = rng.random() < 0.85
    budget = rng.choice((32, 64, 128, 256, 512, 2048))
    budget = budget if chunked else max(budget, max_model_len)
    shape = EngineShape(
        num_blocks=1 + need + rng.randint(0, max(1, need * concurrent // 6)),
        max_num_seqs=rng.choice((2, 4, 8, 16)),
        max_num_batched_tokens=max(budget, 16),
        max_model_len=max_model_len,
        long_prefill_token_threshold=rng.choice((0, 0, 0, 48)) if chunked else 0,
        chunked_prefill=chunked,
        prefix_caching=True,
        scheduling_policy=scheduling_policy,
        watermark=rng.choice((0.0, 0.0, 0.0, 0.01, 0.05)),
    )
    arrivals = rng.choice(
        (
            SessionArrivals.at_concurrency(concurrent, stagger_s=rng.choice((0.0, 0.3, 2.0))),
            SessionArrivals.at_rate(rng.choice((0.05, 0.2)), seed=seed),
            SessionArrivals.at_once(),
        )
    )
    patience_s = rng.choice((None, None, None, 60.0))
    return SessionCase(Case(shape, (), 64, seed), sessions, arrivals, patience_s)


def _random_session(
    rng: random.Random, name: str, longest_new: int, longest_output: int, most_turns: int, scheduling: str
) -> Session:
    turns: list[Turn] = []
    context = 0
    for number in range(rng.randint(1, most_turns)):
        new_tokens = rng.randint(1, longest_new)
        output = rng.randint(1, longest_output)
        kept = rng.randint(0, context) if number and rng.random() < 0.15 else None
        shared = rng.randint(0, min(2, new_tokens // 64)) if not number or rng.random() < 0.2 else 0
        family = rng.randint(0, 1)
        turns.append(
            Turn(
                new_tokens,
                output,
                gap_s=rng.choice((0.0, 0.5, 2.0, 7.25, 30.0)) if number else 0.0,
                hash_ids=tuple(family * 10 + level for level in range(shared)),
                max_tokens=rng.choice((output, output + 5, None, max(1, output - 3))),
                kept_tokens=kept,
            )
        )
        context = (context if kept is None else kept) + new_tokens + output
    priority = rng.randint(0, 2) if scheduling == "priority" else 0
    return Session(name, tuple(turns), priority=priority, chunk_tokens=64)


class _Worker(Worker):
    """Notes what every step did."""

    def __init__(
        self, scheduler: Any, clock: SecondClock, run: Run, step_s: Callable[[SchedulerOutput], float]
    ) -> None:
        super().__init__(scheduler, clock, {})
        self._run = run
        self._step_s = step_s
        self.answers: dict[str, int] = {}

    def first_token(self, request_id: str) -> int:
        return self.answers[request_id]

    def measure_s(self, output: SchedulerOutput) -> float:
        return self._step_s(output)

    def note(self, step: Step, output: SchedulerOutput) -> None:
        self._run.steps.append(step)
        resumed = output.scheduled_cached_reqs
        hits = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs} | {
            request_id: tokens
            for request_id, tokens in zip(resumed.req_ids, resumed.num_computed_tokens, strict=True)
            if request_id in resumed.resumed_req_ids
        }
        self._run.hits += [(name, hits[name]) for name, _ in step.scheduled if name in hits]
        queue = self._scheduler.kv_cache_manager.block_pool.free_block_queue
        self._run.free_blocks.append(tuple(block.block_id for block in queue.get_all_free_blocks()))


class _Client:
    """Sends turns to the real engine, each with the tokens that its past really got."""

    def __init__(self, session_case: SessionCase, scheduler: Any, worker: _Worker) -> None:
        self._shape = session_case.case.shape
        self._scheduler = scheduler
        self._worker = worker
        self._prompts = SessionPrompts()
        self.live: dict[str, tuple[WorkloadRequest, Request]] = {}
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(self._shape.block_size, sha256)

    def send(self, arrival: Arrival) -> None:
        """Add a turn to the scheduler."""
        turn = arrival.request
        name = turn.request_id
        assert arrival.new_tokens is not None
        prompt = self._prompts.write(turn, arrival.new_tokens)
        self._worker.lengths[name] = turn.output_tokens
        self._worker.answers[name] = self._prompts.new_content()
        cap = turn.max_tokens or self._shape.max_model_len - turn.prompt_tokens
        stated = {"bidkv_session_id": turn.session_id, "bidkv_session_end": turn.is_last_turn}
        request = Request(
            request_id=name,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(
                max_tokens=cap, stop_token_ids=[STOP_TOKEN], temperature=0.0, extra_args=stated
            ),
            pooling_params=None,
            arrival_time=turn.arrival_s,
            priority=turn.priority,
            block_hasher=self._hasher,
        )
        self.live[name] = (turn, request)
        self._scheduler.add_request(request)

    def take(self, name: str) -> tuple[WorkloadRequest, int]:
        """A turn has left: return it and the length of its answer, which is part of the next turn's past."""
        turn, request = self.live.pop(name)
        self._prompts.keep(turn, request)
        return turn, len(request.output_token_ids)


def serve_sessions(
    session_case: SessionCase,
    policy: str | None,
    *,
    asynchronous: bool,
    engine: Mapping[str, Any] | None = None,
    step_s: Callable[[SchedulerOutput], float] = lambda _: 1.0,
    watch: Callable[[Any], None] | None = None,
) -> Run:
    """Serve sessions by the real engine core: plain vLLM's scheduler, or the adapter's under a policy.

    Args:
        session_case: the engine and the sessions.
        policy: by its name; None: plain vLLM.
        asynchronous: whether steps are scheduled ahead of the outputs.
        engine: further settings for `build_scheduler`.
        step_s: seconds that a step takes.
        watch: called with the scheduler at the end.
    """
    case = session_case.case
    base = AsyncScheduler if asynchronous else Scheduler
    if policy is None:
        scheduler, clock = build_scheduler(case.shape, base, **engine or {}), SecondClock()
    else:
        scheduler = build_ours(case, policy, base, engine=engine)
        clock = scheduler.bidkv_clock
    run = Run()
    if policy is not None:
        run.note_drops(scheduler.bidkv.controller)
    worker = _Worker(scheduler, clock, run, step_s)
    core: Any = _core(scheduler, worker)
    step = core.step_with_batch_queue if asynchronous else core.step
    preempt = scheduler._preempt_request

    def recording_preempt(request: Request, *args: Any, **kwargs: Any) -> None:
        worker.preempted.append(request.request_id)
        preempt(request, *args, **kwargs)

    scheduler._preempt_request = recording_preempt
    source = session_case.make_source()
    client = _Client(session_case, scheduler, worker)

    def leave(name: str, *, completed: bool) -> None:
        turn, length = client.take(name)
        run.left.append((name, clock.now_s, completed))
        source.close(turn, clock.now_s, length, completed=completed)

    while True:
        assert len(run.steps) < MAX_STEPS, f"case {case.seed} did not end"
        if not _at_work(core):
            # A real engine runs a step of nothing here, which tells its workers what has left. No time passes
            # for the simulator meanwhile, so only what is in flight is taken back.
            worker.idle = True
            while core.batch_queue:
                future, output, _ = core.batch_queue.pop()
                scheduler.update_from_output(output, future.result())
            worker.idle = False
            if source.next_arrival_s == math.inf:
                break
            clock.now_s = max(clock.now_s, source.next_arrival_s)
        while source.next_arrival_s <= clock.now_s:
            arrival = source.take()
            # Policies are told the true arrival here too, not the moment at which the engine takes it in.
            now_s, clock.now_s = clock.now_s, arrival.request.arrival_s
            client.send(arrival)
            clock.now_s = now_s
        while source.next_give_up_s <= clock.now_s:
            name = source.take_given_up()
            if name in client.live:
                scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
                leave(name, completed=False)
        if not _at_work(core):
            continue
        outputs, _ = step()
        for output in () if not outputs else outputs[0].outputs:
            if output.finish_reason is not None:
                leave(output.request_id, completed=True)
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    assert free == case.shape.num_blocks - 1, f"case {case.seed}: blocks lost"
    if watch is not None:
        watch(scheduler)
    return run


class _NotingEngine(VllmStepEngine):
    """The simulated engine; it notes what the real one's worker notes, at the same moment of a step."""

    run: Run

    def submit(self, request: SimRequest) -> None:
        # The adapter reads its clock at an arrival, and in these runs that is the true arrival.
        now_s, self._now_s = self._now_s, request.arrival_s
        super().submit(request)
        self._now_s = now_s

    def _launch(self) -> Any:
        run, cache = self.run, self._cache
        assert cache is not None
        scheduled = tuple((request.request_id, tokens) for request, tokens in self.scheduled)
        run.steps.append(Step(scheduled, tuple(request.request_id for request in self.preempted)))
        run.free_blocks.append(tuple(block + 1 for block in cache._free))  # vLLM's block 0 is its null block
        return super()._launch()


def simulate_sessions_case(session_case: SessionCase, policy: Policy, *, asynchronous: bool) -> Run:
    """Serve sessions by the simulator."""
    config = engine_config(session_case.case, async_scheduling=asynchronous)
    controller = Controller(
        WithinClasses(policy) if config.schedules_by_priority else policy, time_budget_s=None
    )
    engine = _NotingEngine(config, cast("StepTimeProfile", OneSecondSteps()), controller)
    run = engine.run = Run()
    open_life = engine.books.open_life

    def noting_open_life(request: SimRequest, cached_tokens: int) -> None:
        run.hits.append((request.request_id, cached_tokens))
        open_life(request, cached_tokens)

    def note(record: RequestRecord) -> None:
        run.left.append((record.request_id, engine.now_s, record.outcome is Outcome.COMPLETED))

    source = session_case.make_source()
    engine.track_sessions(find_by_prefix=False)
    run.note_drops(controller)
    with patch.object(TokenBooks, "open_life", lambda _, request, cached: noting_open_life(request, cached)):
        SteppingRun(engine, config, source, note, None, 2).to_end()
    return run
