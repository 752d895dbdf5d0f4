"""From the engine options of a command line to a simulated engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bidkv.cli import options as opt
from bidkv.cli.errors import bad_input, fail

if TYPE_CHECKING:
    from bidkv.profiles import StepTimeProfile
    from bidkv.simulator import EngineConfig, SglangConfig

FALLBACK_NUM_GPU_BLOCKS = 8192
"""KV blocks where neither an option nor the profile states any: 131,072 tokens at 16 per block."""

_VLLM_ALONE = (
    "enable_prefix_caching",
    "watermark",
    "async_scheduling",
    "scheduling_policy",
    "max_model_len",
    "long_prefill_token_threshold",
    "enable_chunked_prefill",
    "scheduler_reserve_full_isl",
)
"""Options that the simulated SGLang does not have."""


@dataclass(frozen=True)
class EngineOptions:
    """The engine options of a command line, under vLLM's names; None in `num_gpu_blocks` takes the GPU's.

    Attributes:
        engine: the engine whose scheduler is simulated.
        num_gpu_blocks: KV blocks, the null block included.
        block_size: tokens per block.
        max_num_seqs: most requests that run at once.
        max_num_batched_tokens: token budget of one step.
        enable_prefix_caching: share blocks between equal prefixes.
        watermark: share of the blocks that an admission leaves free.
        async_scheduling: schedule one step ahead.
        scheduling_policy: order of arrival, or priorities.
        max_model_len: longest prompt and output together; None takes what fits.
        long_prefill_token_threshold: most tokens of one prompt in a step beside others; 0 is off.
        enable_chunked_prefill: split prompts over steps.
        scheduler_reserve_full_isl: admit only what fits as a whole.
        schedule_conservativeness: SGLang's factor on reserved output.
        clip_max_new_tokens: SGLang's limit on it.
    """

    engine: opt.Engine = opt.EngineName.VLLM
    num_gpu_blocks: opt.NumGpuBlocks = None
    block_size: opt.BlockSize = opt.DEFAULT_BLOCK_SIZE
    max_num_seqs: opt.MaxNumSeqs = opt.DEFAULT_MAX_NUM_SEQS
    max_num_batched_tokens: opt.MaxNumBatchedTokens = opt.DEFAULT_MAX_NUM_BATCHED_TOKENS
    enable_prefix_caching: opt.PrefixCaching = False
    watermark: opt.Watermark = 0.0
    async_scheduling: opt.AsyncScheduling = False
    scheduling_policy: opt.SchedulingPolicy = opt.SchedulingPolicyName.FCFS
    max_model_len: opt.MaxModelLen = None
    long_prefill_token_threshold: opt.LongPrefillTokenThreshold = 0
    enable_chunked_prefill: opt.ChunkedPrefill = True
    scheduler_reserve_full_isl: opt.ReserveFullIsl = True
    schedule_conservativeness: opt.ScheduleConservativeness = 1.0
    clip_max_new_tokens: opt.ClipMaxNewTokens = 4096

    def blocks(self, profile: StepTimeProfile) -> int:
        """Return the stated number of blocks, or what fits on the profile's GPU beside the weights."""
        if self.num_gpu_blocks is not None:
            return self.num_gpu_blocks
        if profile.num_gpu_blocks is None:
            return FALLBACK_NUM_GPU_BLOCKS
        # A profile counts blocks of 16 tokens.
        return max(profile.num_gpu_blocks * 16 // max(self.block_size, 1), 2)

    def make_engine(self, profile: StepTimeProfile) -> EngineConfig | SglangConfig:
        """Return the engine; a value it could not run with ends the command with one line."""
        from bidkv.simulator import SglangConfig

        if self.engine is opt.EngineName.SGLANG:
            blocks = self.blocks(profile)
            self._refuse_vllm_options()
            with bad_input("engine options"):
                return SglangConfig(
                    # As many tokens as vLLM would have, whose null block SGLang does not need.
                    max_total_tokens=(blocks - 1) * self.block_size,
                    page_size=self.block_size,
                    max_running_requests=self.max_num_seqs,
                    chunked_prefill_size=self.max_num_batched_tokens,
                    schedule_conservativeness=self.schedule_conservativeness,
                    clip_max_new_tokens=self.clip_max_new_tokens,
                )
        return self.make_vllm(profile)

    def _refuse_vllm_options(self) -> None:
        """End the command when an option is stated that the simulated SGLang does not have."""
        plain = EngineOptions()
        stated = [name for name in _VLLM_ALONE if getattr(self, name) != getattr(plain, name)]
        if stated:
            options = " and ".join(f"--{name.replace('_', '-')}" for name in stated)
            fail(f"{options}: the simulated SGLang has none of them")

    def make_vllm(self, profile: StepTimeProfile) -> EngineConfig:
        """Return a vLLM replica of these options, whatever engine they name."""
        from bidkv.simulator import EngineConfig

        with bad_input("engine options"):
            return EngineConfig(
                num_gpu_blocks=self.blocks(profile),
                block_size=self.block_size,
                max_num_seqs=self.max_num_seqs,
                max_num_batched_tokens=self.max_num_batched_tokens,
                enable_prefix_caching=self.enable_prefix_caching,
                watermark=self.watermark,
                async_scheduling=self.async_scheduling,
                scheduling_policy=self.scheduling_policy.value,
                max_model_len=self.max_model_len,
                long_prefill_token_threshold=self.long_prefill_token_threshold,
                enable_chunked_prefill=self.enable_chunked_prefill,
                reserve_full_isl=self.scheduler_reserve_full_isl,
            )

    def as_config(self, profile: StepTimeProfile) -> dict[str, Any]:
        """Return the options under their JSON names."""
        return asdict(self) | {
            "engine": self.engine.value,
            "num_gpu_blocks": self.blocks(profile),
            "scheduling_policy": self.scheduling_policy.value,
        }


def take_hash_chunks(
    engine: EngineConfig | SglangConfig, tokens_per_hash_id: int | None
) -> EngineConfig | SglangConfig:
    """Return the engine with a trace's size of hash chunks; the simulated SGLang shares no prefixes."""
    from bidkv.simulator import EngineConfig

    if tokens_per_hash_id is None or not isinstance(engine, EngineConfig):
        return engine
    return replace(engine, prefix_chunk_tokens=tokens_per_hash_id)


def read_profile(name: str) -> StepTimeProfile:
    """Return the profile of `--profile`."""
    from bidkv.profiles import load_profile

    with bad_input("--profile"):
        return load_profile(name)
