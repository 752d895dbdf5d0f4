"""From the engine options of a command line to a simulated engine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import typer

from bidkv.cli import options as opt
from bidkv.cli.errors import bad_input, fail
from bidkv.command_line.server_options import SchedulerOptions, blocks_that_fit

if TYPE_CHECKING:
    from bidkv.profiles import StepTimeProfile
    from bidkv.simulator import EngineConfig, SglangConfig

_TOLD = ("num_gpu_blocks", "block_size", "enable_prefix_caching", "max_model_len")
"""Options that a running server tells."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions(SchedulerOptions):
    """The engine options of a command line, under vLLM's names; None leaves one to the engine.

    Attributes:
        engine: the engine whose scheduler is simulated.
        num_gpu_blocks: KV blocks, the null block included; None takes the GPU's.
        block_size: tokens per block.
        max_num_seqs: most requests that run at once.
        max_num_batched_tokens: token budget of one step.
        max_model_len: longest prompt and output together; None takes what fits.
        schedule_conservativeness: SGLang's factor on reserved output.
        clip_max_new_tokens: SGLang's limit on it.
        from_server: address of a running vLLM server whose size is taken.
    """

    engine: opt.Engine = opt.EngineName.VLLM
    num_gpu_blocks: opt.NumGpuBlocks = None
    block_size: opt.BlockSize = None
    max_num_seqs: opt.MaxNumSeqs = None
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None
    max_model_len: opt.MaxModelLen = None
    schedule_conservativeness: opt.ScheduleConservativeness = 1.0
    clip_max_new_tokens: opt.ClipMaxNewTokens = 4096
    from_server: opt.FromServer = None

    def ask_server(self) -> EngineOptions:
        """Return the options with what the server of `--from-server` tells in place of what is not stated.

        One line on stderr says what was read, and another which options it does not tell.
        """
        if self.from_server is None:
            return self
        from bidkv.adapters.running_server import UNTOLD, ServerUnreadable, read_running_server

        if self.engine is opt.EngineName.SGLANG:
            fail("--from-server: expected --engine vllm: SGLang's pages are not read")
        try:
            server = read_running_server(self.from_server)
        except ServerUnreadable as error:
            fail(f"--from-server: {error}")
        typer.echo(f"bidkv: --from-server: {server}", err=True)
        assumed = [
            f"--{name.replace('_', '-')} {value:,}"
            for name, value in zip(UNTOLD, self.limits, strict=True)
            if getattr(self, name) is None
        ]
        if assumed:
            typer.echo(
                f"bidkv: --from-server: a server does not tell these; assumed: {', '.join(assumed)}", err=True
            )
        return replace(self, **{name: getattr(server, name) for name in _TOLD if getattr(self, name) is None})

    def blocks(self, profile: StepTimeProfile) -> int:
        """Return the stated number of blocks, or what fits on the profile's GPU beside the weights."""
        if self.num_gpu_blocks is not None:
            return self.num_gpu_blocks
        return blocks_that_fit(profile, self.tokens_per_block)

    @property
    def tokens_per_block(self) -> int:
        """Tokens per KV block."""
        return opt.DEFAULT_BLOCK_SIZE if self.block_size is None else self.block_size

    @property
    def limits(self) -> tuple[int, int]:
        """Most requests that run at once, and the token budget of a step."""
        return (
            opt.DEFAULT_MAX_NUM_SEQS if self.max_num_seqs is None else self.max_num_seqs,
            opt.DEFAULT_MAX_NUM_BATCHED_TOKENS
            if self.max_num_batched_tokens is None
            else self.max_num_batched_tokens,
        )

    def make_engine(self, profile: StepTimeProfile) -> EngineConfig | SglangConfig:
        """Return the engine; a value it could not run with ends the command with one line."""
        from bidkv.simulator import SglangConfig

        if self.engine is opt.EngineName.SGLANG:
            blocks = self.blocks(profile)
            self._refuse_vllm_options()
            running, budget = self.limits
            with bad_input("engine options"):
                return SglangConfig(
                    # As many tokens as vLLM would have, whose null block SGLang does not need.
                    max_total_tokens=(blocks - 1) * self.tokens_per_block,
                    page_size=self.tokens_per_block,
                    max_running_requests=running,
                    chunked_prefill_size=budget,
                    context_length=self.max_model_len,
                    schedule_conservativeness=self.schedule_conservativeness,
                    clip_max_new_tokens=self.clip_max_new_tokens,
                )
        self._refuse_sglang_options()
        return self.make_vllm(profile)

    def _refuse_vllm_options(self) -> None:
        """End the command when an option is stated that the simulated SGLang does not have."""
        if stated := self.stated_switches():
            options = " and ".join(f"--{name.replace('_', '-')}" for name in stated)
            fail(f"{options}: the simulated SGLang has no such option")

    def _refuse_sglang_options(self) -> None:
        """End the command when an option is stated that the simulated vLLM does not have."""
        usual = {each.name: each.default for each in fields(EngineOptions)}
        for name in ("schedule_conservativeness", "clip_max_new_tokens"):
            if getattr(self, name) != usual[name]:
                fail(f"--{name.replace('_', '-')}: the simulated vLLM has no such option")

    def make_vllm(self, profile: StepTimeProfile) -> EngineConfig:
        """Return a vLLM replica of these options, whatever engine they name."""
        from bidkv.simulator import EngineConfig

        running, budget = self.limits
        with bad_input("engine options"):
            return EngineConfig(
                num_gpu_blocks=self.blocks(profile),
                block_size=self.tokens_per_block,
                max_num_seqs=running,
                max_num_batched_tokens=budget,
                max_model_len=self.max_model_len,
                **self.simulated_switches(),
            )

    def as_config(self, profile: StepTimeProfile) -> dict[str, Any]:
        """Return the options in effect under their JSON names."""
        from bidkv.simulator import EngineConfig

        running, budget = self.limits
        usual = {each.name: each.default for each in fields(EngineConfig)}
        switches = {
            name: usual["reserve_full_isl" if name == "scheduler_reserve_full_isl" else name]
            for name in (each.name for each in fields(SchedulerOptions))
        }
        return {
            "engine": self.engine.value,
            "num_gpu_blocks": self.blocks(profile),
            "block_size": self.tokens_per_block,
            "max_num_seqs": running,
            "max_num_batched_tokens": budget,
            "max_model_len": self.max_model_len,
            **switches,
            **self.stated_switches(),
            "schedule_conservativeness": self.schedule_conservativeness,
            "clip_max_new_tokens": self.clip_max_new_tokens,
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
