"""`bidkv timeline`: a decision log as a picture over time, for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bidkv.cli.errors import bad_input
from bidkv.cli.options import LogArgument
from bidkv.cli.outputs import require_other_file, require_writable
from bidkv.results.files import output_file


def command(
    log: LogArgument,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the trace (Chrome Trace Event JSON).")
    ] = Path("timeline.json"),
) -> None:
    """Turn a decision log into a trace: when requests ran, waited or were preempted, and memory in use.

    Open the file at https://ui.perfetto.dev (it stays on your machine) or in chrome://tracing.

    \b
    Examples:
      bidkv simulate --strategy fair --decision-log decisions.jsonl
      bidkv timeline decisions.jsonl --out timeline.json
    """
    from bidkv.observability.log_reader import read_log
    from bidkv.observability.timeline import trace_events

    with bad_input("LOG"):
        log.open("rb").close()
    require_other_file("--out", out, log)
    require_writable("--out", out)
    with bad_input("LOG"):  # before the output is opened: a log that is none must not replace a timeline
        for _ in trace_events(read_log(log)):
            pass
    count = 0
    with bad_input("--out"), output_file(out) as file:
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        for count, event in enumerate(trace_events(read_log(log)), 1):
            line = ("" if count == 1 else ",\n") + json.dumps(event, separators=(",", ":"))
            file.write(line.encode())
        file.write(b"\n]}\n")
    typer.echo(f"timeline: {out}, {count:,} events")
