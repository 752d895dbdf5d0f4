"""Options of a server's scheduler under vLLM's own names (and SGLang's, where it has the same option).

Each is declared here once. A simulated engine and a real server take them alike; None leaves an option to the
engine. The sizes of a simulated engine where none are stated are here as well: those of a real vLLM server on
the profile's GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bidkv.profiles import StepTimeProfile

DEFAULT_BLOCK_SIZE = 16
"""Tokens per KV block, vLLM's default on a GPU."""

DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's default limit of running requests for an offline engine and for servers on most GPUs."""

DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048
"""Token budget of a step; the packaged profiles were recorded with it."""

FALLBACK_NUM_GPU_BLOCKS = 8192
"""KV blocks of 16 tokens where neither an option nor the profile states any."""


def blocks_that_fit(profile: StepTimeProfile, block_size: int) -> int:
    """Return the KV blocks that fit beside the weights on a profile's GPU, the null block included.

    Args:
        profile: of step times; one that states no memory stands for :data:`FALLBACK_NUM_GPU_BLOCKS`.
        block_size: tokens a block.
    """
    if profile.num_gpu_blocks is None:
        return FALLBACK_NUM_GPU_BLOCKS
    return max(profile.num_gpu_blocks * _TOKENS_A_PROFILES_BLOCK // max(block_size, 1), 2)


_TOKENS_A_PROFILES_BLOCK = 16


class SchedulingPolicyName(StrEnum):
    """Values of `--scheduling-policy`."""

    FCFS = "fcfs"
    PRIORITY = "priority"


NumGpuBlocks = Annotated[
    int | None,
    typer.Option(
        "--num-gpu-blocks",
        "--num-gpu-blocks-override",
        metavar="N",
        help="KV blocks, vLLM's reserved null block included.  [default: what fits on the profile's GPU "
        "beside the weights]",
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option("--block-size", "--page-size", metavar="N", help="Tokens per KV block.  [default: 16]"),
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        "--max-num-seqs",
        "--max-running-requests",
        metavar="N",
        help="Most requests that run at once.  [default: 256]",
    ),
]
MaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option(
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        metavar="N",
        help="Token budget of one step.  [default: 2048]",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        "--context-length",
        metavar="N",
        help="Longest prompt and output together.  [default: what fits]",
    ),
]


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """The switches of vLLM's scheduler; None leaves one to the engine."""

    enable_prefix_caching: Annotated[
        bool | None,
        typer.Option(
            help="Share KV blocks between equal prefixes (of sessions, or by a trace's hash_ids).  "
            "[default: off]"
        ),
    ] = None
    watermark: Annotated[
        float | None,
        typer.Option(metavar="F", help="vLLM: share of the blocks that an admission must leave free."),
    ] = None
    async_scheduling: Annotated[
        bool | None,
        typer.Option(
            help="vLLM: schedule one step ahead of the tokens, as it does by default on a GPU.  "
            "[default: off]"
        ),
    ] = None
    scheduling_policy: Annotated[
        SchedulingPolicyName | None,
        typer.Option(
            help="vLLM: serve in order of arrival, or by priorities (lower is first).  [default: fcfs]"
        ),
    ] = None
    long_prefill_token_threshold: Annotated[
        int | None,
        typer.Option(metavar="N", help="vLLM: most tokens of one prompt in a step beside others; 0 is off."),
    ] = None
    enable_chunked_prefill: Annotated[
        bool | None, typer.Option(help="vLLM: split prompts over several steps.  [default: on]")
    ] = None
    scheduler_reserve_full_isl: Annotated[
        bool | None,
        typer.Option(
            help="vLLM: admit a request only when its whole prompt fits into memory.  [default: on]"
        ),
    ] = None

    def stated_switches(self) -> dict[str, Any]:
        """Return the switches that were stated, by the names of their options."""
        values = {each.name: getattr(self, each.name) for each in fields(SchedulerOptions)}
        return {
            name: value.value if isinstance(value, Enum) else value
            for name, value in values.items()
            if value is not None
        }

    def simulated_switches(self) -> dict[str, Any]:
        """Return them by the names that a simulated engine gives them."""
        names = {"scheduler_reserve_full_isl": "reserve_full_isl"}
        return {names.get(name, name): value for name, value in self.stated_switches().items()}
