"""`bidkv tournament`: policies compared over many workloads, loads and memory sizes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import require_report_extra, require_writable


class SplitName(StrEnum):
    """Values of `--split`."""

    TUNING = "tuning"
    HELD_OUT = "held_out"


def command(
    strategy: Annotated[
        str | None,
        typer.Option(metavar="A[,B...]", help="Policies: name or name:key=value;key=value.  [default: all]"),
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="A[,B...]", help="Workload families.  [default: all]")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="A[,B...]", help="Memory sizes: T, 1500, 4096, M.  [default: all]"),
    ] = None,
    load: Annotated[
        str, typer.Option(metavar="X[,Y...]", help="Arrival rates as shares of the rate at saturation.")
    ] = "0.8,0.95,1.1,1.3",
    split: Annotated[
        SplitName, typer.Option(help="Seeds (and rows of real traces) for tuning, or kept for judging.")
    ] = SplitName.TUNING,
    seeds: Annotated[int, typer.Option(metavar="N", help="The first N seeds of the split.")] = 4,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests of each run.  [default: 1,000 at T up to 4,000 at M]"),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes; -1 takes all cores.")] = -1,
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep every score here; what is there already is not run again."),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON; - is stdout.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the Pareto picture as a page.")
    ] = None,
    png_file: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write the Pareto picture as an image.")
    ] = None,
    docs_file: Annotated[
        Path | None,
        typer.Option(
            "--docs", metavar="FILE", help="Regenerate the tables between the markers of this file."
        ),
    ] = None,
) -> None:
    """Compare policies over workloads, loads and memory sizes, in the simulator, on all cores.

    All policies run identical requests. Figures are ratios to vLLM's own order (preempt-evict) on the same
    requests: geometric means with 95 % intervals over seeds. Saturation is the throughput of that order with
    every request there from the start.

    \b
    Examples:
      bidkv tournament --strategy fair,lcf --size T,M --family mixed,sharegpt
      bidkv tournament --split held_out --seeds 12 --output-dir out/tournament --json out/tournament.json
    """
    from bidkv.tournament import TournamentPlan, all_policies, play, tables
    from bidkv.tournament.docs import regenerate, require_markers

    if html_file is not None or png_file is not None:
        require_report_extra()
    outputs = (
        ("--json", Path(json_file) if json_file not in (None, "-") else None),
        ("--html", html_file),
        ("--png", png_file),
    )
    for option, file in outputs:
        if file is not None:
            if option != "--json" and file.suffix != f".{option[2:]}":
                fail(f"{option}: expected a name that ends in .{option[2:]}, got {file}")
            require_writable(option, file)
    with bad_input("--docs"):
        if docs_file is not None:
            require_markers(docs_file)
    with bad_input("options"):
        plan = TournamentPlan.make(
            all_policies() if strategy is None else _names(strategy),
            families=None if family is None else _names(family),
            sizes=None if size is None else _names(size),
            loads=_loads(load),
            seeds=_first_seeds(split, seeds),
            requests=requests,
        )
    with _progress() as on_progress:
        standings = play(plan, jobs=jobs, output_dir=output_dir, on_progress=on_progress)
    if json_file is not None:
        text = json.dumps(standings.as_dict(), indent=1, allow_nan=False) + "\n"
        if json_file == "-":
            typer.echo(text, nl=False)
        else:
            Path(json_file).write_text(text, encoding="utf-8")
    if json_file != "-":
        typer.echo(tables.as_text(standings))
    for file in (html_file, png_file):
        if file is not None:
            from bidkv.tournament.picture import write_picture

            write_picture(file, standings)
    if docs_file is not None:
        regenerate(docs_file, standings, shlex.join(["bidkv", *sys.argv[1:]]))


def _names(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def _loads(text: str) -> list[float]:
    try:
        return [float(part) for part in _names(text)]
    except ValueError:
        fail(f"--load: expected numbers with commas between them, got {text!r}")


def _first_seeds(split: SplitName, count: int) -> Sequence[int]:
    from bidkv.workloads.families import split_seeds

    known = split_seeds(split.value)
    if not 1 <= count <= len(known):
        fail(f"--seeds: expected 1 to {len(known)} (what families.json fixes for {split.value}), got {count}")
    return known[:count]


@contextmanager
def _progress() -> Iterator[Any]:
    """Show a bar on a terminal's stderr; yield what moves it, called with (groups done, groups in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("workloads"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
