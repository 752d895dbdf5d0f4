"""The real engine core's loop over the real `AsyncScheduler`, without a model; the same in the simulator.

`EngineCore.step_with_batch_queue` is vLLM's own: it schedules a step, hands it out and only then waits for
the output of the step before. The worker behind it is made up, and a step takes a second on it. While nobody
has a request in the engine, no time passes for its loop.
"""

from __future__ import annotations

import dataclasses
import queue
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from tests.vllm.cases import Case, Step, prompt_token_ids, random_case
from tests.vllm.harness import MAX_STEPS, AsyncScheduler, SecondClock, build_scheduler
from tests.vllm.ours import build_ours
from tests.vllm.simulated import OneSecondSteps, engine_config
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from bidkv.control import Controller
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import SimRequest, VllmStepEngine

STOP_TOKEN = 7


@dataclasses.dataclass
class Served:
    """What a run did: every step, and at which second each request was complete, in that order."""

    steps: list[Step] = dataclasses.field(default_factory=list)
    finish_s: dict[str, float] = dataclasses.field(default_factory=dict)


def lagged_case(seed: int, **kind: Any) -> Case:
    """A random case whose requests arrive within steps, too, and of which some end before their cap.

    Such an end is known from the token alone, so the step that is already scheduled then computes one more.
    """
    case = random_case(seed, **kind)
    rng = random.Random(seed)
    requests = []
    earliest_s = 0.0
    for request in case.requests:
        earliest_s = max(earliest_s, request.arrival_s + rng.choice((0.0, 0.25, 0.5)))
        cap = rng.choice((request.max_tokens, request.output_tokens + rng.randint(1, 40), None))
        if cap is not None and cap >= case.shape.max_model_len - request.prompt_tokens:
            cap = None  # as the adapter shows a cap that says no more than the model's length
        requests.append(dataclasses.replace(request, arrival_s=earliest_s, max_tokens=cap))
        earliest_s += 1e-4 if case.shape.scheduling_policy == "priority" else 0.0  # ties are broken there
    return dataclasses.replace(case, requests=tuple(requests))


class Worker:
    """The executor of an engine core: one step is at work, one may wait behind it.

    Attributes:
        lengths: tokens of the answer of every request, by id.
        preempted: requests preempted since the last step, for whoever watches the scheduler to fill.
        idle: whether nobody has a request here, so that no time passes.
    """

    def __init__(self, scheduler: Any, clock: SecondClock, lengths: dict[str, int]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.lengths = lengths
        self._takes_s = 0.0
        self._made: Counter[str] = Counter()
        self._output: ModelRunnerOutput | None = None
        self.preempted: list[str] = []
        self.idle = False

    def execute_model(self, output: SchedulerOutput, *, non_block: bool) -> _Future:
        """Start a step; every request whose known tokens are all computed then makes one more."""
        assert non_block
        request_ids = list(output.num_scheduled_tokens)
        sampled = [self._sample(request_id) for request_id in request_ids]
        step = Step(tuple(output.num_scheduled_tokens.items()), tuple(self.preempted))
        self.preempted.clear()
        self.note(step, output)
        positions = {request_id: i for i, request_id in enumerate(request_ids)}
        connector = self._scheduler.connector
        self._output = ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index=positions,
            sampled_token_ids=sampled,
            kv_connector_output=None if connector is None else connector.step_output(),
        )
        self._takes_s = self.measure_s(output)
        return _Future(self._output, self._wait)

    def sample_tokens(self, grammar: object, *, non_block: bool) -> _Future:
        """The tokens of the step just started."""
        assert non_block
        assert grammar is None
        return _Future(self._output, self._wait)

    def _sample(self, request_id: str) -> list[int]:
        if self._scheduler.requests[request_id].is_prefill_chunk:
            return []
        self._made[request_id] += 1
        made = self._made[request_id]
        return [STOP_TOKEN if made == self.lengths[request_id] else self.first_token(request_id) + made]

    def note(self, step: Step, output: SchedulerOutput) -> None:
        """Remember a step at the moment it was scheduled."""
        raise NotImplementedError

    def measure_s(self, output: SchedulerOutput) -> float:
        """Return the seconds that a step takes."""
        return 1.0

    def first_token(self, request_id: str) -> int:
        """Return a number below the tokens of an answer, which count up from it."""
        return 20_000_000

    def _wait(self) -> None:
        if not self.idle:
            self._clock.now_s += self._takes_s


class _ServingWorker(Worker):
    """Remembers the steps of all that live."""

    def __init__(self, scheduler: Any, clock: SecondClock, lengths: dict[str, int], served: Served) -> None:
        super().__init__(scheduler, clock, lengths)
        self._served = served

    def note(self, step: Step, output: SchedulerOutput) -> None:
        if self.idle:
            assert step == Step((), ())
        else:
            self._served.steps.append(step)


@dataclasses.dataclass
class _Future:
    """Of a step's output, for which the engine core waits."""

    output: ModelRunnerOutput | None
    wait: Callable[[], None]

    def result(self) -> ModelRunnerOutput | None:
        self.wait()
        return self.output


def serve_lagged(case: Case, policy: str | None, **engine: Any) -> Served:
    """Serve a case by the real asynchronous scheduler: plain vLLM's, or the adapter's under a policy.

    `engine` holds further settings for `build_scheduler`.
    """
    if policy is None:
        scheduler, clock = build_scheduler(case.shape, AsyncScheduler, **engine), SecondClock()
    else:
        scheduler = build_ours(case, policy, AsyncScheduler, engine=engine)
        clock = scheduler.bidkv_clock
    served = Served()
    worker = _ServingWorker(scheduler, clock, {r.request_id: r.output_tokens for r in case.requests}, served)
    core = _core(scheduler, worker)
    preempt = scheduler._preempt_request

    def recording_preempt(request: Request, *args: Any, **kwargs: Any) -> None:
        worker.preempted.append(request.request_id)
        preempt(request, *args, **kwargs)

    scheduler._preempt_request = recording_preempt
    arrivals = deque(enumerate(case.requests))
    while arrivals or _at_work(core):
        assert len(served.steps) < MAX_STEPS, f"case {case.seed} did not end"
        if not _at_work(core):
            worker.idle = True  # what finished is told to the workers by steps of nothing
            while core.batch_queue or scheduler.has_requests():
                core.step_with_batch_queue()
            worker.idle = False
            clock.now_s = max(clock.now_s, arrivals[0][1].arrival_s)
        while arrivals and arrivals[0][1].arrival_s <= clock.now_s:
            index, request = arrivals.popleft()
            # Policies are told the true arrival here too, not the moment at which the engine takes it in.
            now_s, clock.now_s = clock.now_s, request.arrival_s
            scheduler.add_request(_request(index, request, case))
            clock.now_s = now_s
        outputs, _ = core.step_with_batch_queue()
        for output in () if not outputs else outputs[0].outputs:
            if output.finish_reason is not None:
                served.finish_s[output.request_id] = clock.now_s
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    assert free == case.shape.num_blocks - 1, f"case {case.seed}: blocks lost"
    return served


def _core(scheduler: Any, worker: Worker) -> EngineCore:
    """An engine core of vLLM's own class around a scheduler, two batches deep as with async scheduling."""
    core: Any = EngineCore.__new__(EngineCore)
    core.scheduler = scheduler
    core.model_executor = worker
    core.batch_queue_size = 2
    core.batch_queue = deque(maxlen=2)
    core.vllm_config = scheduler.vllm_config
    core.aborts_queue = queue.Queue()
    core.log_stats = core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
    core._weight_version = None
    return core


def _at_work(core: Any) -> bool:
    """Whether a request lives, or something is still computed for one that has left."""
    steps = [output for _, output, _ in core.batch_queue]
    return core.scheduler.has_unfinished_requests() or any(s.num_scheduled_tokens for s in steps)


def _request(index: int, request: WorkloadRequest, case: Case) -> Request:
    """The engine's own Request; without a cap of its own the model's length caps it, as in the frontend."""
    hasher = None
    if case.shape.prefix_caching:
        init_none_hash(sha256)
        hasher = get_request_block_hasher(case.shape.block_size, sha256)
    cap = request.max_tokens or case.shape.max_model_len - request.prompt_tokens
    return Request(
        request_id=request.request_id,
        prompt_token_ids=prompt_token_ids(request, index, case.prefix_chunk_tokens),
        sampling_params=SamplingParams(max_tokens=cap, stop_token_ids=[STOP_TOKEN], temperature=0.0),
        pooling_params=None,
        arrival_time=request.arrival_s,
        priority=request.priority,
        block_hasher=hasher,
    )


def simulate_lagged(case: Case, policy: Policy, **options: Any) -> Served:
    """Serve a case by the simulator with asynchronous scheduling, and further options of the engine."""
    config = engine_config(case, async_scheduling=True, **options)
    engine = VllmStepEngine(config, OneSecondSteps(), Controller(policy, time_budget_s=None))
    arrivals = deque(case.requests)
    served = Served()
    while arrivals or not engine.idle:
        if engine.idle:
            engine.wait_until(max(engine.now_s, arrivals[0].arrival_s))
        while arrivals and arrivals[0].arrival_s <= engine.now_s:
            request = arrivals.popleft()
            engine.submit(SimRequest(request, config.model_len))
        engine.step()
        scheduled = tuple((request.request_id, tokens) for request, tokens in engine.scheduled)
        served.steps.append(Step(scheduled, tuple(request.request_id for request in engine.preempted)))
        served.finish_s.update((request.request_id, engine.now_s) for request in engine.finished)
    return served
