"""`bidkv explain`: why a request was preempted and what it cost."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.options import LogArgument, PrintJson
from bidkv.cli.outputs import write_json

if TYPE_CHECKING:
    from bidkv.observability.explain import Story

_SHOWN_IDS = 5
"""Ids that a message about an ambiguous beginning names."""


def command(
    log: LogArgument,
    request: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Tell this request's whole story; the start of its id is enough."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Tell why this session's turns waited and its KV was dropped."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Without --request, list this many.")] = 20,
    as_json: PrintJson = False,
) -> None:
    """Explain why a request was preempted instead of others, by which figures, and what that cost.

    Without --request, list the preempted requests, those with the most recomputed tokens first.

    \b
    Examples:
      bidkv explain decisions.jsonl
      bidkv explain decisions.jsonl --request chatcmpl-42
      bidkv explain decisions.jsonl --session s17
    """
    if top < 1:
        fail(f"--top: expected a number of at least 1, got {top}")
    if request is not None and session is not None:
        fail("--request and --session: expected only one of them")
    if session is not None:
        _explain_session(log, session, as_json=as_json)
        return
    from bidkv.observability.explain import stories
    from bidkv.observability.log_reader import read_log
    from bidkv.observability.story_text import format_story, story_as_dict

    with bad_input("LOG"):
        name = None if request is None else _full_id(log, request)
        told = stories(read_log(log), name)
    if name is not None:
        story = told[name]
        if not write_json(story_as_dict(story), "-" if as_json else None):
            typer.echo(format_story(story))
    elif not write_json([story_as_dict(story) for story in told.values()], "-" if as_json else None):
        _print_summary(told.values(), top)


def _explain_session(log: Path, session_id: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    from bidkv.observability.log_reader import read_log
    from bidkv.observability.session_story import read_session, tell_session

    with bad_input("LOG"):
        lines = read_session(read_log(log), session_id)
    if not lines:
        fail(f"--session: {log} does not know {session_id!r}")
    if not write_json([asdict(line) for line in lines], "-" if as_json else None):
        typer.echo("\n".join(tell_session(lines)))


def _full_id(log: Path, given: str) -> str:
    """Return the one id that begins so: an engine appends to the client's id (`cmpl-1`: `cmpl-1-0-ab`)."""
    from bidkv.observability.log_lines import Admission, Finish, Preemption
    from bidkv.observability.log_reader import read_log

    matching: set[str] = set()
    for line in read_log(log):
        if isinstance(line, (Admission, Preemption, Finish)) and line.request_id.startswith(given):
            if line.request_id == given:
                return given
            matching.add(line.request_id)
    if not matching:
        fail(f"--request: {log} does not know {given!r}")
    if len(matching) > 1:
        more = ", ..." if len(matching) > _SHOWN_IDS else ""
        some = ", ".join(sorted(matching)[:_SHOWN_IDS])
        fail(f"--request: {len(matching)} requests begin with {given!r}: {some}{more}")
    return matching.pop()


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
