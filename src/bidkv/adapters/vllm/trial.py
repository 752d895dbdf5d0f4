"""vLLM's own scheduler in miniature: no model, a few requests, a handful of blocks, tokens made up.

It is made from a copy of the running engine's configuration, so that every setting a version of vLLM reads is
there. What would reach outside (KV connectors, event publishers) or needs a model (speculation, encoders) is
left out of the copy. Nothing of the running engine is touched.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BLOCK_SIZE = 16
PROMPT_TOKENS = 30
OUTPUT_TOKENS = 12
NUM_REQUESTS = 5
USABLE_BLOCKS = 7
SHARED_BLOCKS = 2
"""Three requests run at once and come to need three blocks each: two more than there are. With a prefix cache
they share their first block, so there are two blocks fewer."""

MOST_STEPS = 400

_LEFT_OUT = (
    "kv_transfer_config",
    "kv_events_config",
    "ec_transfer_config",
    "speculative_config",
    "lora_config",
)
NOT_IN_TRIAL = (
    "is_encoder_decoder",
    "is_multimodal_model",
    "supports_multimodal_inputs",
    "is_diffusion",
    "is_hybrid",
    "uses_mrope",
)
"""What a model may be and the miniature is not."""


class TrialError(Exception):
    """The miniature did not do what vLLM's scheduler does; the message says what it did."""


@dataclass(frozen=True, slots=True)
class TrialStep:
    """One step: the tokens of each request in order, who was preempted, and what was free after it."""

    scheduled: tuple[tuple[str, int], ...]
    preempted: tuple[str, ...]
    free_blocks: int


@dataclass(frozen=True, slots=True)
class TrialParts:
    """What an engine makes its scheduler of, ready to be copied for the miniature.

    Attributes:
        arguments: the engine's own, by name.
        policy: "fcfs" or "priority".
        prefix_caching: whether the engine caches prefixes.
    """

    arguments: dict[str, Any]
    policy: str
    prefix_caching: bool

    @classmethod
    def read(cls, kind: type[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TrialParts:
        """Read them from the arguments of a scheduler's class.

        Raises:
            TrialError: no class that `kind` derives from takes a `vllm_config`.
        """
        for base in kind.__mro__:
            if "__init__" not in vars(base):
                continue
            signature = inspect.signature(vars(base)["__init__"])
            if "vllm_config" in signature.parameters:
                arguments = dict(signature.bind(None, *args, **kwargs).arguments)
                arguments.pop(next(iter(signature.parameters)))  # self
                config = arguments["vllm_config"]
                policy = str(config.scheduler_config.policy)
                return cls(arguments, policy, bool(config.cache_config.enable_prefix_caching))
        raise TrialError(f"{kind.__qualname__} is not made of a vllm_config")

    def make_scheduler(self, kind: type[Any]) -> Any:
        """Return a scheduler in miniature of this class."""
        import torch
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        # One is vLLM's null block.
        num_blocks = 1 + USABLE_BLOCKS - (SHARED_BLOCKS if self.prefix_caching else 0)
        spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
        changed = {
            "vllm_config": _make_config(
                self.arguments["vllm_config"], prefix_caching=self.prefix_caching, num_blocks=num_blocks
            ),
            "kv_cache_config": KVCacheConfig(
                num_blocks=num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            "block_size": BLOCK_SIZE,
            "hash_block_size": BLOCK_SIZE,
            "include_finished_set": False,
            "log_stats": False,
        }
        known = {name: value for name, value in changed.items() if name in self.arguments}
        return kind(**{**self.arguments, **known})


def _make_config(config: Any, *, prefix_caching: bool, num_blocks: int) -> Any:
    """Return a copy of a `VllmConfig` for the miniature; the original is left alone."""
    trial = copy.copy(config)
    _set(trial, dict.fromkeys(_LEFT_OUT))
    trial.scheduler_config = _changed(
        config.scheduler_config,
        max_num_seqs=3,
        max_num_active_seqs=None,
        max_num_batched_tokens=64,
        max_num_scheduled_tokens=None,
        long_prefill_token_threshold=0,
        long_prefill_token_threshold_adaptive=False,
        enable_chunked_prefill=True,
        watermark=0.0,
    )
    trial.cache_config = _changed(
        config.cache_config,
        block_size=BLOCK_SIZE,
        num_gpu_blocks=num_blocks,
        enable_prefix_caching=prefix_caching,
        mamba_cache_mode="none",
    )
    trial.parallel_config = _changed(
        config.parallel_config,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        decode_context_parallel_size=1,
        prefill_context_parallel_size=1,
    )
    trial.observability_config = _changed(config.observability_config, kv_cache_metrics=False)
    trial.model_config = _make_model_config(config.model_config)
    return trial


def _make_model_config(config: Any) -> Any:
    plain = _changed(config, max_model_len=8 * BLOCK_SIZE, multimodal_config=None, runner_type="generate")
    for name in NOT_IN_TRIAL:
        vars(plain).pop(name, None)  # a cached property of the original
    kind = type(config)
    answers = {name: False for name in NOT_IN_TRIAL if hasattr(kind, name)}
    plain.__class__ = type(kind.__name__, (kind,), answers)
    return plain


def _changed(config: Any, **values: Any) -> Any:
    changed = copy.copy(config)
    _set(changed, values)
    return changed


def _set(config: Any, values: dict[str, Any]) -> None:
    """Set those of the values that this version of vLLM has a field for."""
    for name, value in values.items():
        if name in vars(config):
            setattr(config, name, value)


def make_trial_requests() -> list[Any]:
    """Return the requests of a trial; they start alike, so a prefix cache shares their first blocks."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    return [
        Request(
            request_id=f"trial-{number}",
            prompt_token_ids=[5] * (PROMPT_TOKENS - 1) + [number],
            sampling_params=SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True, temperature=0.0),
            pooling_params=None,
            arrival_time=float(number),
            block_hasher=_hash_blocks,
        )
        for number in range(NUM_REQUESTS)
    ]


def _hash_blocks(request: Any) -> list[Any]:
    """Name the full blocks that have no hash yet: the first block of all requests holds the same tokens."""
    known, full = len(request.block_hashes), request.num_tokens // BLOCK_SIZE
    names = ["shared" if index == 0 else f"{request.request_id} {index}" for index in range(known, full)]
    return [name.encode().ljust(32, b".") for name in names]


class TrialEngine:
    """Serves requests with a scheduler in miniature and notes each step.

    Attributes:
        steps: what was done.
    """

    def __init__(self, scheduler: Any) -> None:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler

        self._scheduler = scheduler
        self._lag = 1 if isinstance(scheduler, AsyncScheduler) else 0
        self._preempted: list[str] = []
        self.steps: list[TrialStep] = []
        self.outputs: list[Any] = []
        self._free_blocks = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self._watch_preemptions()

    def _watch_preemptions(self) -> None:
        scheduler, original, preempted = self._scheduler, self._scheduler._preempt_request, self._preempted

        def preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
            preempted.append(request.request_id)
            return original(request, *args, **kwargs)

        scheduler._preempt_request = preempt

    def serve(self, requests: Iterable[Any]) -> None:
        """Serve requests to their end.

        Raises:
            TrialError: they do not end, or blocks are lost.
            Exception: the scheduler raised.
        """
        scheduler = self._scheduler
        waiting = list(requests)
        for request in waiting:
            scheduler.add_request(request)
        in_flight: deque[tuple[Any, Any]] = deque()
        while scheduler.has_unfinished_requests():
            if len(self.steps) >= MOST_STEPS:
                raise TrialError(f"{NUM_REQUESTS} short requests did not end within {MOST_STEPS} steps")
            output = scheduler.schedule()
            self._note(output)
            in_flight.append((output, self._answer(output)))
            # As vLLM's engine core: a step that scheduled nothing waits for the one before.
            if len(in_flight) > self._lag or not output.num_scheduled_tokens:
                scheduler.update_from_output(*in_flight.popleft())
        while in_flight:
            scheduler.update_from_output(*in_flight.popleft())
        self._check_end(waiting)

    def _note(self, output: Any) -> None:
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        scheduled = tuple(output.num_scheduled_tokens.items())
        self.steps.append(TrialStep(scheduled, tuple(self._preempted), free))
        self.outputs.append(output)
        self._preempted.clear()

    def _answer(self, output: Any) -> Any:
        """Return what a worker would: one token for each request whose known tokens are all computed."""
        from vllm.v1.outputs import ModelRunnerOutput

        request_ids = list(output.num_scheduled_tokens)
        known = [self._scheduler.requests.get(request_id) for request_id in request_ids]
        tokens = [[] if request is None or request.is_prefill_chunk else [7] for request in known]
        return ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(request_ids)},
            sampled_token_ids=tokens,
        )

    def _check_end(self, requests: Iterable[Any]) -> None:
        for request in requests:
            if request.num_output_tokens != OUTPUT_TOKENS:
                raise TrialError(
                    f"a request of {OUTPUT_TOKENS} tokens ended with {request.num_output_tokens}"
                )
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        if free != self._free_blocks:
            raise TrialError(f"{free} of {self._free_blocks} blocks are free at the end")
