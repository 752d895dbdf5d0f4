"""The real vLLM scheduler without a model: a case goes in, the list of its steps comes out.

Nothing of the scheduler is replaced: it is built from a VllmConfig and fed ModelRunnerOutputs whose tokens
are made up, as a worker would return them (synchronously, or one step late as with async scheduling).
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.engine_model import write_config
from tests.vllm.cases import Case, EngineShape, Step, prompt_token_ids
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from bidkv.protocol.requests import WorkloadRequest

MAX_STEPS = 200_000


class SecondClock:
    """A clock that shows the time of the arrival or the second of the step at hand; `run_case` sets it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@functools.cache
def _model_config(max_model_len: int) -> ModelConfig:
    directory = write_config(Path(tempfile.mkdtemp(prefix="bidkv-model-")), max_model_len=max_model_len)
    return ModelConfig(
        model=str(directory), skip_tokenizer_init=True, dtype="float32", max_model_len=max_model_len
    )


def full_attention(block_size: int) -> FullAttentionSpec:
    """Blocks of `block_size` tokens that are kept until the request ends."""
    return FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)


def build_scheduler(
    shape: EngineShape,
    scheduler_cls: type[Scheduler] = Scheduler,
    *,
    specs: Sequence[KVCacheSpec] = (),
    kv_transfer: KVTransferConfig | None = None,
) -> Scheduler:
    """The real scheduler, or a subclass of it.

    Args:
        shape: its settings.
        scheduler_cls: the class to make it of.
        specs: one for each group of KV cache; one group of full attention if there are none.
        kv_transfer: of a KV connector, or None.
    """
    is_async = issubclass(scheduler_cls, AsyncScheduler)
    model_config = _model_config(shape.max_model_len)
    scheduler_config = SchedulerConfig(
        max_num_seqs=shape.max_num_seqs,
        max_num_batched_tokens=shape.max_num_batched_tokens,
        max_model_len=shape.max_model_len,
        long_prefill_token_threshold=shape.long_prefill_token_threshold,
        enable_chunked_prefill=shape.chunked_prefill,
        policy=shape.scheduling_policy,
        watermark=shape.watermark,
        async_scheduling=is_async,
        is_encoder_decoder=False,
    )
    cache_config = CacheConfig(
        block_size=shape.block_size,
        gpu_memory_utilization=0.5,
        cache_dtype="auto",
        enable_prefix_caching=shape.prefix_caching,
    )
    vllm_config = VllmConfig(
        scheduler_config=scheduler_config,
        model_config=model_config,
        cache_config=cache_config,
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=kv_transfer,
    )
    # VllmConfig adjusts settings to the platform it finds; a case means what it says.
    scheduler_config.enable_chunked_prefill = shape.chunked_prefill
    scheduler_config.async_scheduling = is_async
    cache_config.enable_prefix_caching = shape.prefix_caching
    cache_config.block_size = shape.block_size
    cache_config.num_gpu_blocks = shape.num_blocks
    cache_config.mamba_cache_mode = next(
        (spec.mamba_cache_mode for spec in specs if isinstance(spec, MambaSpec)),
        cache_config.mamba_cache_mode,
    )
    kv_cache_config = KVCacheConfig(
        num_blocks=shape.num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[
            KVCacheGroupSpec([f"layer{number}"], spec)
            for number, spec in enumerate(specs or [full_attention(shape.block_size)])
        ],
    )
    hashing: dict[str, int] = {}
    if specs and shape.prefix_caching:
        hashing["hash_block_size"] = math.gcd(*(spec.block_size for spec in specs))
    return scheduler_cls(
        vllm_config=vllm_config,
        kv_cache_config=kv_cache_config,
        structured_output_manager=StructuredOutputManager(vllm_config),
        # As an engine does: a common multiple of the groups' block sizes.
        block_size=math.lcm(*(spec.block_size for spec in specs)) if specs else shape.block_size,
        **(
            {"hash_block_size": min(spec.block_size for spec in specs)}
            if shape.prefix_caching and specs
            else {}
        ),
        log_stats=False,
    )


@functools.cache
def prepare_hashes() -> None:
    """Let vLLM draw the hash before the first block once, as a server does: before 0.30 it is random."""
    init_none_hash(sha256)


def make_request(request: WorkloadRequest, index: int, case: Case, *, hashed: bool = False) -> Request:
    """The engine's own Request for a workload's, which generates exactly its `output_tokens`.

    Its blocks are hashed where prefixes are cached, or where a connector wants to know them (`hashed`).
    """
    hasher = None
    if case.shape.prefix_caching or hashed:
        prepare_hashes()
        hasher = get_request_block_hasher(case.shape.block_size, sha256)
    return Request(
        request_id=request.request_id,
        prompt_token_ids=prompt_token_ids(request, index, case.prefix_chunk_tokens),
        sampling_params=SamplingParams(max_tokens=request.output_tokens, ignore_eos=True, temperature=0.0),
        pooling_params=None,
        arrival_time=request.arrival_s,
        priority=request.priority,
        block_hasher=hasher,
    )


def worker_output(scheduler: Scheduler, output: SchedulerOutput) -> ModelRunnerOutput:
    """What a worker would answer: one token for every request whose known tokens are all computed."""
    request_ids = list(output.num_scheduled_tokens)
    sampled: list[list[int]] = []
    for request_id in request_ids:
        request = scheduler.requests.get(request_id)
        # Decided when the step is executed, as a worker does: later steps may have moved the counters.
        sampled.append([] if request is None or request.is_prefill_chunk else [20_000_000])
    return ModelRunnerOutput(
        req_ids=request_ids,
        req_id_to_index={request_id: i for i, request_id in enumerate(request_ids)},
        sampled_token_ids=sampled,
        kv_connector_output=None if scheduler.connector is None else scheduler.connector.step_output(),
    )


def run_case(
    case: Case,
    scheduler_cls: type[Scheduler] = Scheduler,
    *,
    prepare: Callable[[Any], None] | None = None,
    before_step: Callable[[Any, int], None] | None = None,
    scheduler: Any = None,
    clock: SecondClock | None = None,
    engine: Mapping[str, Any] | None = None,
) -> list[Step]:
    """Serve a case to its end and return what every step did.

    Args:
        case: what is served.
        scheduler_cls: Scheduler or AsyncScheduler or a subclass; an async one gets each output one step late.
        prepare: called once with the new scheduler.
        before_step: called with the scheduler and the step's number before each step is scheduled.
        scheduler: a scheduler to use instead of a new one (it must be idle).
        clock: set to the time of each arrival and to the second of each step.
        engine: further settings of a new scheduler, see `build_scheduler`.

    Raises:
        RuntimeError: when the case does not end, or blocks are lost at its end.
    """
    scheduler = scheduler or build_scheduler(case.shape, scheduler_cls, **engine or {})
    if prepare is not None:
        prepare(scheduler)
    preempted: list[str] = []
    original = scheduler._preempt_request

    def recording_preempt(request: Request, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        original(request, *args, **kwargs)

    scheduler._preempt_request = recording_preempt
    arrivals = deque(enumerate(case.requests))
    in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
    lag = 1 if isinstance(scheduler, AsyncScheduler) else 0
    steps: list[Step] = []
    second = 0
    try:
        while arrivals or scheduler.has_unfinished_requests():
            if len(steps) >= MAX_STEPS:
                raise RuntimeError(f"case {case.seed} did not end after {MAX_STEPS} steps")
            if not scheduler.has_unfinished_requests():
                second = max(second, math.ceil(arrivals[0][1].arrival_s))
            while arrivals and arrivals[0][1].arrival_s <= second:
                index, request = arrivals.popleft()
                if clock is not None:
                    clock.now_s = request.arrival_s
                hashed = scheduler.connector is not None
                scheduler.add_request(make_request(request, index, case, hashed=hashed))
            if clock is not None:
                clock.now_s = float(second)
            if before_step is not None:
                before_step(scheduler, len(steps))
            second += 1
            output = scheduler.schedule()
            steps.append(Step(tuple(output.num_scheduled_tokens.items()), tuple(preempted)))
            preempted.clear()
            in_flight.append((output, worker_output(scheduler, output)))
            if clock is not None:
                clock.now_s = float(second)  # the step took a second
            # As EngineCore.step_with_batch_queue: a step that scheduled nothing waits for the one before.
            if len(in_flight) > lag or not output.num_scheduled_tokens:
                scheduler.update_from_output(*in_flight.popleft())
        while in_flight:
            scheduler.update_from_output(*in_flight.popleft())
        while scheduler.connector is not None and scheduler.requests:  # blocks are still being sent
            output = scheduler.schedule()
            scheduler.update_from_output(output, worker_output(scheduler, output))
    finally:
        scheduler._preempt_request = original
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    if free != case.shape.num_blocks - 1:
        raise RuntimeError(f"case {case.seed}: {case.shape.num_blocks - 1 - free} blocks lost")
    return steps
