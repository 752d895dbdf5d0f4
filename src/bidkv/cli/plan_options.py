"""The options of `bidkv plan` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bidkv.command_line.declared import valued

PromptTokens = Annotated[
    str | None,
    valued("N|LOW:HIGH", "Prompt length, or uniform lengths, instead of a trace."),
]
OutputTokens = Annotated[
    str | None,
    valued("N|LOW:HIGH", "Output length, or uniform lengths, instead of a trace."),
]
PlannedRate = Annotated[float | None, valued("RPS", "Arrivals per second.  [default: the trace's own]")]
ModelConfig = Annotated[
    str | None,
    valued("MODEL", "Compute steps and blocks from a config.json, instead of --profile."),
]
CachedPromptShare = Annotated[float, valued("F", "Share of prompt tokens found in the prefix cache.")]
Users = Annotated[
    int | None,
    valued("N", "Plan for N users, each of whom sends the next request after an answer (and --think)."),
]
Think = Annotated[
    float,
    valued(
        "S", "Seconds from an answer to the user's next request, or from a session's end to the next session."
    ),
]
Growth = Annotated[float, valued("X", "Also plan for X times the load.")]
TargetUtilization = Annotated[
    float | None,
    valued(
        "F",
        "Largest share of its sustainable rate that a replica is planned to carry.  [default: 0.8; 0.95 with "
        "a target]",
    ),
]
TtftTarget = Annotated[float | None, valued("MS", "Target: 99th percentile of the time to first token.")]
TpotTarget = Annotated[float | None, valued("MS", "Target: mean time per output token.")]
TestBySimulation = Annotated[
    bool,
    typer.Option(
        "--simulate", help="Test the plan: simulate one replica at 0.9, 1.0 and 1.1 of its rate, and fleets."
    ),
]
ClosedForm = Annotated[
    bool,
    typer.Option(
        "--closed-form", help="Take the replicas for a target from the closed form; simulate no fleets."
    ),
]
Picture = Annotated[
    Path | None,
    valued("FILE", "Draw the figures of one replica from idle to its limit (.html, .svg or .png)."),
]
