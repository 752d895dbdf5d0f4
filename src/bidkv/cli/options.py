"""Options that several commands share: each has one name, one type and one help text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bidkv.cli.errors import bad_input
from bidkv.command_line.declared import valued
from bidkv.command_line.server_options import (
    DEFAULT_BLOCK_SIZE,
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    DEFAULT_MAX_NUM_SEQS,
    BlockSize,
    MaxModelLen,
    MaxNumBatchedTokens,
    MaxNumSeqs,
    NumGpuBlocks,
)
from bidkv.protocol.texts import split_list

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "DEFAULT_MAX_NUM_BATCHED_TOKENS",
    "DEFAULT_MAX_NUM_SEQS",
    "BlockSize",
    "MaxModelLen",
    "MaxNumBatchedTokens",
    "MaxNumSeqs",
    "NumGpuBlocks",
]


class EngineName(StrEnum):
    """Values of `--engine`."""

    VLLM = "vllm"
    SGLANG = "sglang"


class RouterName(StrEnum):
    """Values of `--router`."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    PREFIX_AWARE = "prefix-aware"


class SplitName(StrEnum):
    """Values of `--split`."""

    TUNING = "tuning"
    HELD_OUT = "held_out"


# What is run.

DEFAULT_TRACE = "azure-conv"
"""The trace that ships and is run where none is named."""

Trace = Annotated[
    str,
    valued(
        "FILE|NAME",
        "A trace file, a trace that ships (azure-conv, mooncake-conv, arxiv-lengths, sharegpt-lengths), "
        "or a generated workload; KIND:NAME where two share a name (family:mixed).",
    ),
]
WorkloadName = Annotated[
    str | None,
    valued(
        "NAME",
        "A generated workload or a workload family instead of --trace: single requests (mixed, "
        "long_context, ...) or sessions (agents, chat-sessions, rollouts, ...).",
    ),
]
TraceFormatOption = Annotated[
    str,
    valued(
        "FORMAT",
        "How to read the trace; auto recognizes the format by columns and first rows, and "
        "docs/reference/workloads.md lists the formats.",
    ),
]
Rate = Annotated[
    float | None,
    valued(
        "RPS",
        "Mean arrivals of single requests per second. A trace that has arrival times is stretched to this "
        "rate; workloads without arrival times need one.",
    ),
]
Limit = Annotated[int | None, valued("N", "Take only the first N requests.")]
Sessions = Annotated[
    int | None,
    valued("N", "Sessions to generate, or to read from a file.  [default: 100, or all]"),
]
SessionRate = Annotated[float | None, valued("R", "Sessions that start per second, as a Poisson process.")]
ConcurrentSessions = Annotated[
    int | None,
    valued("N", "Sessions alive at any time: when one ends, the next starts."),
]
SessionStagger = Annotated[float, valued("S", "Seconds between the starts of the first concurrent sessions.")]
SessionsAtOnce = Annotated[bool, typer.Option("--sessions-at-once", help="Start all sessions at time 0.")]
Duration = Annotated[
    float | None,
    valued("T", "Cut the run after T seconds; what is unfinished then is not counted."),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Read the trace anew for every strategy and keep no request: a trace of any length needs little "
        "memory, and percentiles are within 0.8 %.",
    ),
]
Hours = Annotated[
    float | None,
    valued("H", "Repeat the trace, each time from another starting point, until it lasts H hours."),
]
Seed = Annotated[int, valued("S", "Seed of generated workloads, arrivals and random strategies.")]
Strategies = Annotated[
    str | None,
    valued(
        "A[,B...]",
        "Strategies to compare: name or name:key=value;key=value.  [default: the contract's and this "
        "project's own; for sessions preempt-evict,fair,sessions]",
    ),
]

# On which engine.

Profile = Annotated[str, valued("NAME|FILE", "Step-time profile: how long a step of the engine takes.")]
Engine = Annotated[
    EngineName,
    typer.Option("--engine", help="The engine whose scheduler is simulated, decision for decision."),
]
Replicas = Annotated[int, valued("N", "Identical replicas behind a router, on one clock.")]
Router = Annotated[RouterName, typer.Option(help="How the router chooses the replica of a request.")]
FromServer = Annotated[
    str | None,
    valued(
        "URL",
        "Read the size of a running vLLM server (http://127.0.0.1:8000) from its /metrics and /v1/models; "
        "options that are stated win.",
    ),
]
ScheduleConservativeness = Annotated[
    float, valued("F", "SGLang: scales the output that running requests reserve.")
]
ClipMaxNewTokens = Annotated[int, valued("N", "SGLang: most output tokens that one request reserves.")]

# What comes out.

Figures = Annotated[
    str | None,
    valued(
        "A[,B...]",
        "Columns of the table, named as in the JSON or as in the table's header: ttft_s.p99, TPOT p99.",
    ),
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON; - is stdout.")
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the results as a self-contained HTML page."),
]
DecisionLog = Annotated[
    Path | None,
    valued("FILE", "Write every decision as JSON lines; needs exactly one --strategy."),
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogArgument = Annotated[
    Path, typer.Argument(metavar="LOG", help="Decision log written by an engine or by bidkv simulate.")
]

DEFAULT_SESSION_STAGGER_S = 0.2
"""Seconds between the starts of the first concurrent sessions, as in the recorded runs of sessions."""


def split_names(option: str, text: str) -> list[str]:
    """Return the names that an option lists with commas; the option is named where one is empty."""
    with bad_input(option):
        return split_list(text)
