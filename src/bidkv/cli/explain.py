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

_SHOWN_IDS = 5


def command(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Decision log (BIDKV_DECISION_LOG).")],
    request: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Tell this request's whole story; the beginning of its id will do."),
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
        name = None if request is None else _full_id(log, request)
        told = stories(read_log(log), name)
    if name is not None:
        story = told[name]
        typer.echo(json.dumps(story_as_dict(story), indent=2) if as_json else story_in_words(story))
    elif as_json:
        typer.echo(json.dumps([story_as_dict(story) for story in told.values()], indent=2))
    else:
        _print_summary(told.values(), top)


def _full_id(log: Path, given: str) -> str:
    """Return the id that is meant: engines append to what a client is told (`cmpl-1-0-ab`, not `cmpl-1`)."""
    from bidkv.observability.log_lines import Admission, Finish, Preemption
    from bidkv.observability.log_reader import read_log

    alike: set[str] = set()
    for line in read_log(log):
        if isinstance(line, (Admission, Preemption, Finish)) and line.request_id.startswith(given):
            if line.request_id == given:
                return given
            alike.add(line.request_id)
    if not alike:
        fail(f"--request: {log} does not know {given!r}")
    if len(alike) > 1:
        more = ", ..." if len(alike) > _SHOWN_IDS else ""
        some = ", ".join(sorted(alike)[:_SHOWN_IDS])
        fail(f"--request: {len(alike)} requests begin with {given!r}: {some}{more}")
    return alike.pop()


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
