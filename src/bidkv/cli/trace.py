"""`bidkv trace`: look at traces, convert, cut and anonymize them, and fit generators to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli import options as opt
from bidkv.cli.errors import bad_input, fail
from bidkv.cli.option_groups import expand_groups
from bidkv.cli.outputs import require_all_writable, require_other_file, require_writable, write_json
from bidkv.cli.workload import FileStatements
from bidkv.protocol.texts import plain_number
from bidkv.results.files import write_output

if TYPE_CHECKING:
    from bidkv.workloads.trace_editing import Content
    from bidkv.workloads.traces import Trace

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Look at traces, convert, cut and anonymize them, and fit generators to them.

    \b
    Examples:
      bidkv trace inspect my.jsonl --picture my.svg
      bidkv trace convert bailian.jsonl my.jsonl
      bidkv trace cut my.jsonl hour.jsonl --from-s 3600 --to-s 7200
      bidkv trace anonymize my.jsonl to-send.jsonl
      bidkv trace fit my.jsonl
    """,
)

TraceArgument = Annotated[str, typer.Argument(metavar="TRACE", help="A trace file, or a trace that ships.")]
OutputArgument = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write, all or nothing.")]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="FORMAT",
        help="mooncake, vidur or azure; mooncake-sessions, bailian or tracelab.  "
        "[default: mooncake, or mooncake-sessions for sessions]",
    ),
]
AsRequests = Annotated[
    bool, typer.Option("--as-requests", help="Read sessions as single requests at their recorded times.")
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", metavar="RPS", help="Arrivals a second, for a trace that has none of its own."),
]
_NOTHING_STATED = FileStatements()


@app.command()
@expand_groups
def inspect(
    trace: TraceArgument,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    rate: Rate = None,
    as_requests: AsRequests = False,
    json_file: opt.JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw rate over time and lengths.")
    ] = None,
) -> None:
    """Say what a trace holds: span, rate over time, lengths, sessions, shared prefixes, burstiness."""
    from bidkv.workloads.trace_editing import read_content
    from bidkv.workloads.trace_picture import draw_summary
    from bidkv.workloads.trace_summary import summarize_requests, summarize_sessions

    if picture is not None and picture.suffix != ".svg":
        fail(f"--picture: expected a name that ends in .svg, got {str(picture)!r}")
    require_all_writable((("--json", json_file), ("--picture", picture)))
    opened = _open(trace, trace_format, stated)
    with bad_input("TRACE"):
        content = read_content(opened, rate_rps=rate, as_requests=as_requests)
        if content.sessions is not None:
            summary: Any = summarize_sessions(content.sessions)
        else:
            summary = summarize_requests(content.requests or ())
    document = {"trace": trace, **opened.report.as_dict(), "summary": summary.as_dict()}
    if picture is not None:  # before anything is printed, which a closed pipe would end
        write_output(picture, draw_summary(summary))
    if not write_json(document, json_file):
        typer.echo("\n".join([*opened.report.lines(), *summary.lines()]))


@app.command()
@expand_groups
def convert(
    trace: TraceArgument,
    output: OutputArgument,
    to: To = None,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    rate: Rate = None,
    as_requests: AsRequests = False,
) -> None:
    """Write a trace in another format. Hash ids of other sizes become ids of 512 tokens."""
    _check_output(output, trace)
    opened = _open(trace, trace_format, stated)
    _write(opened, _read(opened, rate, as_requests), output, to)


@app.command()
@expand_groups
def cut(
    trace: TraceArgument,
    output: OutputArgument,
    from_s: Annotated[
        float, typer.Option(metavar="S", help="Keep what arrives from S seconds after the first arrival on.")
    ] = 0.0,
    to_s: Annotated[float, typer.Option(metavar="S", help="Keep what arrives before.")] = float("inf"),
    sample: Annotated[
        float, typer.Option(metavar="SHARE", help="Keep each request or session with this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the sample.")] = 0,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Keep at most N requests or sessions.")
    ] = None,
    to: To = None,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    rate: Rate = None,
    as_requests: AsRequests = False,
) -> None:
    """Write a part of a trace: a window of time, a sample, the first N. It starts at 0 s."""
    from bidkv.workloads.trace_editing import cut_content

    _check_output(output, trace)
    opened = _open(trace, trace_format, stated)
    content = _read(opened, rate, as_requests)
    with bad_input("cut"):
        part = cut_content(content, from_s=from_s, to_s=to_s, sample=sample, seed=seed, limit=limit)
    _write(opened, part, output, to)


@app.command()
@expand_groups
def anonymize(
    trace: TraceArgument,
    output: OutputArgument,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Key of the hashes, at least 16 bytes.  [default: chance, thrown away]"
        ),
    ] = None,
    time_step_s: Annotated[
        float, typer.Option(metavar="S", help="Round arrivals down to multiples of S seconds.")
    ] = 0.0,
    to: To = None,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    as_requests: AsRequests = False,
) -> None:
    """Write a trace that can be given away: lengths, gaps and keyed hashes only, starting at 0 s."""
    import secrets

    from bidkv.workloads.trace_editing import Anonymizer

    _check_output(output, trace)
    with bad_input("--key-file"):
        key = secrets.token_bytes(32) if key_file is None else key_file.read_bytes()
        anonymizer = Anonymizer(key, time_step_s)
    opened = _open(trace, trace_format, stated)
    _write(opened, anonymizer.hide(_read(opened, None, as_requests)), output, to)


@app.command()
@expand_groups
def fit(
    trace: TraceArgument,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    rate: Rate = None,
    as_requests: AsRequests = False,
    json_file: opt.JsonFile = None,
) -> None:
    """Fit a generator's parameters to a trace, so that more of the same traffic can be made."""
    from bidkv.workloads.generator_fit import fit_requests, fit_sessions

    require_all_writable([("--json", json_file)])
    opened = _open(trace, trace_format, stated)
    content = _read(opened, rate, as_requests)
    with bad_input("TRACE"):
        if content.sessions is not None:
            fitted = fit_sessions(content.sessions)
        else:
            fitted = fit_requests(content.requests or ())
    if write_json({"trace": trace, **fitted.as_dict()}, json_file):
        return
    fitted_rate = "" if fitted.rate_rps is None else plain_number(fitted.rate_rps, 4).replace(",", "")
    typer.echo(
        f"bidkv simulate --workload '{fitted.spec}'" + (f" --rate {fitted_rate}" if fitted_rate else "")
    )
    for name, distance in fitted.distances.items():
        typer.echo(f"{name:10} distance to the data {distance:.3f}")
    for note in fitted.notes:
        typer.echo(f"note: {note}")


def _check_output(output: Path, trace: str) -> None:
    """Refuse, before anything is read, an output that cannot be written or that is the trace itself."""
    if output.exists() and not output.is_file():
        fail(f"OUTPUT: {output}: expected a regular file, not a folder, pipe or device")
    require_other_file("OUTPUT", output, trace)
    require_writable("OUTPUT", output)


def _open(trace: str, trace_format: str, stated: FileStatements) -> Trace:
    from bidkv.workloads.resolver import resolve_workload
    from bidkv.workloads.traces import open_trace

    options = stated.make_options()
    with bad_input("TRACE"):
        found = resolve_workload(trace)
        if found.is_generated:
            fail(f"TRACE: expected a trace, found the generated workload {found}")
        return open_trace(found.name, trace_format=trace_format, options=options)


def _read(opened: Trace, rate: float | None, as_requests: bool) -> Content:
    from bidkv.workloads.trace_editing import read_content

    with bad_input("TRACE"):
        return read_content(opened, rate_rps=rate, as_requests=as_requests)


def _write(opened: Trace, content: Content, output: Path, to: str | None) -> None:
    from bidkv.workloads.trace_editing import WRITTEN_FORMATS, write_content
    from bidkv.workloads.traces.errors import TraceError

    chosen = to or ("mooncake" if content.sessions is None else "mooncake-sessions")
    if chosen not in WRITTEN_FORMATS:
        fail(f"--to: expected one of {', '.join(WRITTEN_FORMATS)}, got {chosen!r}")
    with bad_input("OUTPUT"):
        try:
            written = write_content(content, output, chosen)
        except TraceError as error:  # requests are read while they are written
            fail(f"TRACE: {error}")
    for line in opened.report.lines():
        typer.echo(f"bidkv: {line}", err=True)
    typer.echo(f"bidkv: wrote {written:,} requests to {output} ({chosen})", err=True)
