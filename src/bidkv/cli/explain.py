"""`bidkv explain`: why a request was preempted and what it cost."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail

if TYPE_CHECKING:
    from bidkv.observability.explain import Story


def command(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Decision log (BIDKV_DECISION_LOG).")],
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Tell this request's whole story.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Without --request: list this many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say in words why a request was preempted, against whom, by which figures, and what it cost.

    Without --request: the preempted requests, those with the most recomputed tokens first.

    \b
    Examples:
      bidkv explain decisions.jsonl
      bidkv explain decisions.jsonl --request chatcmpl-42
    """
    from bidkv.observability.explain import stories
    from bidkv.observability.log_reader import read_log
    from bidkv.observability.words import story_as_dict, story_in_words

    with bad_input("LOG"):
        told = stories(read_log(log), request)
    if request is not None:
        if request not in told:
            fail(f"--request: {log} does not know {request!r}")
        story = told[request]
        typer.echo(json.dumps(story_as_dict(story), indent=2) if as_json else story_in_words(story))
    elif as_json:
        typer.echo(json.dumps([story_as_dict(story) for story in told.values()], indent=2))
    else:
        _print_summary(told.values(), top)


def _print_summary(told: Collection[Story], top: int) -> None:
    from rich.table import Table

    from bidkv.cli.outputs import table_console

    setbacks = [setback for story in told for setback in story.setbacks]
    by_policy = sum(setback.preemption.by == "policy" for setback in setbacks)
    recomputed = sum(story.recomputed_tokens for story in told)
    console = table_console()
    console.print(
        f"{len(setbacks):,} preemptions of {len(told):,} requests, {by_policy:,} of them the policy's "
        f"choice; {recomputed:,} tokens computed again."
    )
    if not told:
        return
    table = Table(box=None)
    for heading in ("preempted", "recomputed tokens", "waited to run again (s)"):
        table.add_column(heading, justify="right")
    table.add_column("request", overflow="fold")
    for story in sorted(told, key=lambda story: -story.recomputed_tokens)[:top]:
        table.add_row(
            str(len(story.setbacks)),
            f"{story.recomputed_tokens:,}",
            f"{story.waited_s:.3f}",
            story.request_id.replace("[", r"\["),
        )
    console.print(table)
