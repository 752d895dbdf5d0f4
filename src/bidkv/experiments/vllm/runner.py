"""`python -m bidkv.experiments.vllm.runner`: strategies compared on real vLLM, or `--engine sim`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from bidkv.command_line.server_options import (
    DEFAULT_BLOCK_SIZE,
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    DEFAULT_MAX_NUM_SEQS,
    BlockSize,
    MaxModelLen,
    MaxNumBatchedTokens,
    MaxNumSeqs,
    NumGpuBlocks,
    SchedulerOptions,
    blocks_that_fit,
)
from bidkv.experiments.options import EngineKind, RunnerOptions, value_or
from bidkv.experiments.runner import run_main
from bidkv.experiments.server_launch import DEFAULT_MODEL
from bidkv.experiments.vllm_driver import make_vllm_driver
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig


@dataclass(frozen=True, kw_only=True)
class VllmOptions(SchedulerOptions, RunnerOptions):
    """The shared options, and those that vLLM's server takes under the same names."""

    __doc__ = RunnerOptions.__doc__

    model: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="vLLM: a folder with config.json and weights, or a name in the local cache  "
            f"[default: on a CPU a tiny random model, on a GPU {DEFAULT_MODEL}]",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(metavar="X", help="vLLM: share of the GPU's memory it may take")
    ] = None
    num_gpu_blocks_override: NumGpuBlocks = None
    max_num_seqs: MaxNumSeqs = None
    max_num_batched_tokens: MaxNumBatchedTokens = None
    max_model_len: MaxModelLen = None
    block_size: BlockSize = None


def simulate_options(given: VllmOptions) -> EngineConfig:
    """Read the options that a simulated vLLM has too; the others mean nothing there.

    Sizes that are not stated are those of `bidkv simulate`: a real server's on the profile's GPU.
    """
    block_size = value_or(given.block_size, DEFAULT_BLOCK_SIZE)
    return EngineConfig(
        num_gpu_blocks=value_or(
            given.num_gpu_blocks_override, blocks_that_fit(load_profile(given.profile), block_size)
        ),
        block_size=block_size,
        max_num_seqs=value_or(given.max_num_seqs, DEFAULT_MAX_NUM_SEQS),
        max_num_batched_tokens=value_or(given.max_num_batched_tokens, DEFAULT_MAX_NUM_BATCHED_TOKENS),
        max_model_len=given.max_model_len,
        **given.simulated_switches(),
    )


VLLM = EngineKind("vllm", VllmOptions, simulate_options, make_vllm_driver)


def main(argv: Sequence[str] | None = None, *, prog: str = "bidkv.experiments.vllm.runner") -> int:
    """Run the command line; return its exit code. `prog` is its name where usage is shown."""
    return run_main(VLLM, argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
