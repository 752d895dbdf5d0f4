"""`bidkv replay`: what other policies would have chosen on a decision log's candidates."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input
from bidkv.cli.options import LogArgument, PrintJson, split_names
from bidkv.cli.outputs import write_json

if TYPE_CHECKING:
    from bidkv.observability.replay import Replay


def command(
    log: LogArgument,
    strategy: Annotated[
        str, typer.Option(metavar="A[,B...]", help="Policies to ask: name or name:key=value;key=value.")
    ],
    as_json: PrintJson = False,
) -> None:
    """Score what other policies would have chosen at the logged decisions.

    Every policy is asked each logged question with the same candidates and the same number of missing blocks.
    Each decision is scored alone; bidkv simulate tells what would have followed.

    \b
    Examples:
      bidkv replay decisions.jsonl --strategy preempt-evict,lcf,fair
    """
    from bidkv.observability.log_reader import read_log
    from bidkv.observability.replay import replay
    from bidkv.policy import resolve

    names = split_names("--strategy", strategy)
    with bad_input("--strategy"):
        policies = [(name, resolve(name)) for name in names]
    with bad_input("LOG"):
        outcome = replay(read_log(log), policies)
    document = {"truncated": outcome.truncated, "scores": [asdict(score) for score in outcome.scores]}
    if not write_json(document, "-" if as_json else None):
        _print(outcome)


def _print(outcome: Replay) -> None:
    from rich.table import Table

    from bidkv.cli.outputs import table_console

    table = Table(box=None)
    table.add_column("policy")
    for heading in (
        "decisions",
        "same victim",
        "tokens to recompute",
        "blocks freed",
        "tokens a block",
        "one was enough",
    ):
        table.add_column(heading, justify="right")
    for score in outcome.scores:
        per_block = score.lost_tokens / score.freed_blocks if score.freed_blocks else 0.0
        table.add_row(
            score.name,
            f"{score.decisions:,}",
            f"{_share(score.same, score.decisions)}",
            f"{score.lost_tokens:,}",
            f"{score.freed_blocks:,}",
            f"{per_block:.1f}",
            f"{_share(score.sufficient, score.decisions)}",
        )
    console = table_console()
    console.print(table)
    console.print(
        "Tokens to recompute are those that the victims held when they were chosen; `bidkv explain` counts "
        "what was really computed again until the log's end."
    )
    if outcome.truncated:
        console.print(f"{outcome.truncated:,} decisions show only some of their candidates.")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
