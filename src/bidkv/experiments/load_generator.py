"""`python -m bidkv.experiments.load_generator`: apply a workload to a server and write what was seen."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bidkv.command_line import make_command, print_error, run_command
from bidkv.experiments.load_client import replay
from bidkv.experiments.load_samples import LoadReport, write_samples
from bidkv.experiments.request_bodies import PATHS, Dialect, prepare
from bidkv.experiments.session_load import read_session_load
from bidkv.workloads.traces import TraceError, read_trace

if TYPE_CHECKING:
    from bidkv.experiments.session_client import SessionClient

PROG = "bidkv.experiments.load_generator"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Apply a workload to a server and write what was seen."""

    url: Annotated[str, typer.Option(help="of the server, without a path")]
    dialect: Annotated[str, typer.Option(metavar="|".join(PATHS), help="format of the requests")]
    model: Annotated[str, typer.Option(help="the model's name, as the server calls it")]
    vocabulary: Annotated[int, typer.Option(help="token ids are below this")]
    workload: Annotated[
        Path,
        typer.Option(help="a trace file, whose times are kept; with --sessions a session load"),
    ]
    output: Annotated[Path, typer.Option(help="JSON lines: a report, then one sample per request")]
    salt: Annotated[str, typer.Option(help="another salt gives other prompt tokens")] = ""
    drain_s: Annotated[float, typer.Option(help="seconds to wait after the last request was due")] = 300.0
    sessions: Annotated[bool, typer.Option("--sessions", help="drive sessions in closed loop")] = False


def generate_load(given: LoadOptions) -> int:
    """Apply the load; return 0, or 2 for bad input."""
    try:
        if given.dialect not in PATHS:
            raise ValueError(f"--dialect: expected one of {', '.join(PATHS)}, got {given.dialect!r}")
        dialect = cast("Dialect", given.dialect)
        if given.sessions:
            client = make_session_client(given, dialect)
        else:
            prepared = prepare(
                list(read_trace(given.workload)), dialect, given.model, given.vocabulary, given.salt
            )
    except (TraceError, ValueError, OSError) as error:
        return print_error(error)
    # A garbage collection in the middle of the run would make requests late.
    gc.collect()
    gc.freeze()
    gc.disable()
    if given.sessions:
        from bidkv.experiments.session_samples import write_session_samples

        write_session_samples(given.output, asyncio.run(client.run()))
    else:
        start_s, samples = asyncio.run(replay(given.url, dialect, prepared, given.drain_s))
        write_samples(given.output, LoadReport.summarize(start_s, samples), samples)
    return 0


def make_session_client(given: LoadOptions, dialect: Dialect) -> SessionClient:
    """Return the client that applies a session load.

    Raises:
        OSError: the load cannot be read.
        ValueError: it is not a session load, or names an unknown endpoint.
    """
    from bidkv.experiments.session_bodies import ChatConversations, Conversations, TokenConversations
    from bidkv.experiments.session_client import SessionClient
    from bidkv.simulator import SessionSource

    load = read_session_load(given.workload)
    conversations: Conversations
    if load.endpoint == "chat":
        conversations = ChatConversations(dialect, given.model, given.salt, told=load.told)
    else:
        conversations = TokenConversations(dialect, given.model, given.vocabulary, given.salt, told=load.told)
    source = SessionSource(load.sessions, load.arrivals, tells_sessions=load.told)
    return SessionClient(given.url, source, conversations, load.duration_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_command(make_command(LoadOptions, generate_load), PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
