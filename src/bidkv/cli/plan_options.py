"""The options of `bidkv plan` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PromptTokens = Annotated[
    str | None,
    typer.Option(metavar="N|LOW:HIGH", help="Prompt length, or uniform lengths, instead of a trace."),
]
OutputTokens = Annotated[
    str | None,
    typer.Option(metavar="N|LOW:HIGH", help="Output length, or uniform lengths, instead of a trace."),
]
PlannedRate = Annotated[
    float | None, typer.Option(metavar="RPS", help="Arrivals per second.  [default: the trace's own]")
]
ModelConfig = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Compute steps and blocks from a config.json, instead of --profile."),
]
CachedPromptShare = Annotated[
    float, typer.Option(metavar="F", help="Share of prompt tokens found in the prefix cache.")
]
Users = Annotated[
    int | None,
    typer.Option(metavar="N", help="Plan for N users, each of whom sends the next request after an answer."),
]
Think = Annotated[
    float, typer.Option(metavar="S", help="Seconds from an answer, or a session's end, to the next.")
]
Growth = Annotated[float, typer.Option(metavar="X", help="Plan also for X times the load.")]
TargetUtilization = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Most of the sustainable rate that a replica carries.  [default: 0.8, and 0.95 with a target]",
    ),
]
TtftTarget = Annotated[
    float | None, typer.Option(metavar="MS", help="Target: 99th percentile of the time to first token.")
]
TpotTarget = Annotated[float | None, typer.Option(metavar="MS", help="Target: mean time per output token.")]
TestBySimulation = Annotated[
    bool,
    typer.Option("--simulate", help="Test the plan: simulate 0.9, 1.0 and 1.1 of the rate, and fleets."),
]
ClosedForm = Annotated[
    bool,
    typer.Option(
        "--closed-form", help="Leave the replicas for a target to the closed form, without simulated fleets."
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw a replica from idle to its limit (.html, .svg or .png)."),
]
