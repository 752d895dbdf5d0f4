"""Options that several commands share: each has one name, one type and one help text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
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
)

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

Trace = Annotated[
    str,
    typer.Option(
        metavar="FILE|NAME",
        help="A trace file, a trace that ships (azure-conv, mooncake-conv, arxiv-lengths, sharegpt-lengths), "
        "or a generated workload; KIND:NAME where two share a name (family:mixed).",
    ),
]
WorkloadName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A generated workload or a workload family instead of --trace: single requests (mixed, "
        "long_context, ...) or sessions (agents, chat-sessions, rollouts, ...).",
    ),
]
TraceFormatOption = Annotated[
    str,
    typer.Option(
        metavar="FORMAT",
        help="How to read the trace: auto tells it by columns and first rows; docs/reference/workloads.md "
        "lists the formats.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="RPS",
        help="Mean arrival rate of single requests. A trace that has arrival times is stretched to it; "
        "workloads without arrival times need it.",
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Take only the first N requests.")]
Sessions = Annotated[
    int | None,
    typer.Option(metavar="N", help="Sessions to generate, or to read of a file.  [default: 100, or all]"),
]
SessionRate = Annotated[
    float | None, typer.Option(metavar="R", help="Sessions that start per second, as a Poisson process.")
]
ConcurrentSessions = Annotated[
    int | None,
    typer.Option(metavar="N", help="Sessions alive at any time; each one that ends starts the next."),
]
SessionStagger = Annotated[
    float, typer.Option(metavar="S", help="Seconds between the starts of the first concurrent sessions.")
]
SessionsAtOnce = Annotated[bool, typer.Option("--sessions-at-once", help="Start all sessions at time 0.")]
Duration = Annotated[
    float | None,
    typer.Option(metavar="T", help="Cut the run after T seconds; what is unfinished then is not counted."),
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
    typer.Option(metavar="H", help="Repeat the trace, each time from another place, until it lasts H hours."),
]
Seed = Annotated[
    int, typer.Option(metavar="S", help="Seed of generated workloads, arrivals and random strategies.")
]
Strategies = Annotated[
    str | None,
    typer.Option(
        metavar="A[,B...]",
        help="Strategies to compare: name or name:key=value;key=value.  [default: the contract's and this "
        "project's own; for sessions preempt-evict,fair,sessions]",
    ),
]

# On which engine.

Profile = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Step-time profile: how long a step of the engine takes.")
]
Engine = Annotated[
    EngineName,
    typer.Option("--engine", help="The engine whose scheduler is simulated, decision for decision."),
]
Replicas = Annotated[int, typer.Option(metavar="N", help="Equal replicas behind a router, on one clock.")]
Router = Annotated[RouterName, typer.Option(help="How the router chooses the replica of a request.")]
FromServer = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Take the size of a running vLLM server (http://127.0.0.1:8000) from its own pages; options "
        "that are stated win.",
    ),
]
ScheduleConservativeness = Annotated[
    float, typer.Option(metavar="F", help="SGLang: scales the output that running requests reserve.")
]
ClipMaxNewTokens = Annotated[
    int, typer.Option(metavar="N", help="SGLang: most output tokens that one request reserves.")
]

# What comes out.

Figures = Annotated[
    str | None,
    typer.Option(
        metavar="A[,B...]",
        help="Columns of the table, by their names in the JSON or above a column: ttft_s.p99, TPOT p99.",
    ),
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON; - is stdout.")
]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page.")]
DecisionLog = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write every decision of the one --strategy as JSON lines."),
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogArgument = Annotated[
    Path, typer.Argument(metavar="LOG", help="Decision log, of an engine or of bidkv simulate.")
]

DEFAULT_SESSION_STAGGER_S = 0.2
"""Seconds between the starts of the first concurrent sessions, as in the recorded runs of sessions."""
