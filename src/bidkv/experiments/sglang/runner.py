"""`python -m bidkv.experiments.sglang.runner`: strategies compared on real SGLang, or `--engine sim`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from bidkv.adapters.sglang.server import RESERVED_NEW_TOKENS
from bidkv.command_line.server_options import (
    DEFAULT_BLOCK_SIZE,
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    DEFAULT_MAX_NUM_SEQS,
    blocks_that_fit,
)
from bidkv.experiments.options import EngineKind, RunnerOptions, value_or
from bidkv.experiments.runner import run_main
from bidkv.experiments.server_launch import DEFAULT_MODEL
from bidkv.experiments.sglang_driver import make_sglang_driver
from bidkv.profiles import load_profile
from bidkv.simulator import SglangConfig


@dataclass(frozen=True, kw_only=True)
class SglangOptions(RunnerOptions):
    """The shared options, and those that SGLang's server takes under the same names."""

    __doc__ = RunnerOptions.__doc__

    model: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="SGLang: a folder with config.json and weights, or a name in the local cache  "
            f"[default: on a CPU a tiny random model, on a GPU {DEFAULT_MODEL}]",
        ),
    ] = None
    mem_fraction_static: Annotated[
        float | None, typer.Option(metavar="X", help="SGLang: share of the memory for weights and KV cache")
    ] = None
    max_total_tokens: Annotated[
        int | None, typer.Option(metavar="X", help="SGLang: tokens that the KV cache holds")
    ] = None
    max_running_requests: Annotated[
        int | None, typer.Option(metavar="X", help="SGLang: most requests running at once")
    ] = None
    chunked_prefill_size: Annotated[
        int | None, typer.Option(metavar="X", help="SGLang: most prompt tokens of one step")
    ] = None
    context_length: Annotated[
        int | None, typer.Option(metavar="X", help="SGLang: longest prompt + output")
    ] = None
    page_size: Annotated[int | None, typer.Option(metavar="X", help="SGLang: tokens of a KV page")] = None


def simulate_options(given: SglangOptions) -> SglangConfig:
    """Read the options that a simulated SGLang has too; the others mean nothing there.

    Sizes that are not stated are those of `bidkv simulate`, but for the page: one token, as SGLang has it.
    """
    # As many tokens as vLLM would have, whose null block SGLang does not need.
    fitting = (blocks_that_fit(load_profile(given.profile), DEFAULT_BLOCK_SIZE) - 1) * DEFAULT_BLOCK_SIZE
    return SglangConfig(
        max_total_tokens=value_or(given.max_total_tokens, fitting),
        page_size=value_or(given.page_size, 1),
        max_running_requests=value_or(given.max_running_requests, DEFAULT_MAX_NUM_SEQS),
        chunked_prefill_size=value_or(given.chunked_prefill_size, DEFAULT_MAX_NUM_BATCHED_TOKENS),
        context_length=given.context_length,
        clip_max_new_tokens=RESERVED_NEW_TOKENS,
    )


SGLANG = EngineKind("sglang", SglangOptions, simulate_options, make_sglang_driver)


def main(argv: Sequence[str] | None = None, *, prog: str = "bidkv.experiments.sglang.runner") -> int:
    """Run the command line; return its exit code. `prog` is its name where usage is shown."""
    return run_main(SGLANG, argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
