"""`bidkv tournament`: policies compared over many workloads, loads and memory sizes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.options import JsonFile, SplitName
from bidkv.cli.outputs import progress_bar, require_all_writable, require_extra, write_json

if TYPE_CHECKING:
    from bidkv.tournament import Standings

_LOADS = "0.8,0.95,1.1,1.3"


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
        str, typer.Option(metavar="X[,Y...]", help="Arrival rates as shares of the throughput at saturation.")
    ] = _LOADS,
    split: Annotated[
        SplitName, typer.Option(help="Seeds (and rows of real traces) for tuning, or those kept for judging.")
    ] = SplitName.TUNING,
    seeds: Annotated[int, typer.Option(metavar="N", help="Take the first N seeds of the split.")] = 4,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests of each run.  [default: 1,000 at T up to 4,000 at M]"),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes; -1 takes all cores.")] = -1,
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep every score here; stored scores are not run again."),
    ] = None,
    json_file: JsonFile = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the Pareto picture as a page.")
    ] = None,
    png_file: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write the Pareto picture as an image.")
    ] = None,
    docs_file: Annotated[
        Path | None,
        typer.Option("--docs", metavar="FILE", help="Regenerate the tables between this file's markers."),
    ] = None,
) -> None:
    """Compare policies over workloads, loads and memory sizes, in the simulator, on all cores.

    All policies run identical requests. Figures are ratios to vLLM's own order (preempt-evict) on the same
    requests: geometric means with 95 % intervals over seeds. Saturation is the throughput of that order when
    every request is there from the start. Each memory size has its own sequence limit: T has 600 blocks and
    32 sequences, M 8,192 blocks and 256 sequences.

    \b
    Examples:
      bidkv tournament --strategy fair,lcf --size T,M --family mixed,sharegpt
      bidkv tournament --split held_out --seeds 12 --output-dir out/tournament --json out/tournament.json
    """
    require_extra("experiments", "tournament")
    from bidkv.tournament import TournamentPlan, all_policies, play

    _check_outputs(json_file, html_file, png_file, docs_file)
    with bad_input("options"):
        plan = TournamentPlan.make(
            all_policies() if strategy is None else split_names(strategy),
            families=None if family is None else split_names(family),
            sizes=None if size is None else split_names(size),
            loads=split_numbers("--load", load),
            seeds=first_seeds(split, seeds),
            requests=requests,
        )
    with progress_bar(None, "workloads") as bar:
        standings = play(
            plan,
            jobs=jobs,
            output_dir=output_dir,
            on_progress=lambda done, total: bar("workloads", done, total),
        )
    _write(standings, json_file, (html_file, png_file), docs_file)


def _check_outputs(
    json_file: str | None, html_file: Path | None, png_file: Path | None, docs_file: Path | None
) -> None:
    from bidkv.tournament.docs import require_markers

    for option, file in (("--html", html_file), ("--png", png_file)):
        if file is not None:
            require_extra("report", option)
            if file.suffix != f".{option[2:]}":
                fail(f"{option}: expected a name that ends in .{option[2:]}, got {file}")
    require_all_writable((("--json", json_file), ("--html", html_file), ("--png", png_file)))
    with bad_input("--docs"):
        if docs_file is not None:
            require_markers(docs_file)


def _write(
    standings: Standings, json_file: str | None, pictures: Sequence[Path | None], docs_file: Path | None
) -> None:
    from bidkv.tournament import tables
    from bidkv.tournament.docs import regenerate

    if not write_json(standings.as_dict(), json_file):
        typer.echo(tables.as_text(standings))
    for file in pictures:
        if file is not None:
            from bidkv.tournament.picture import write_picture

            write_picture(file, standings)
    if docs_file is not None:
        regenerate(docs_file, standings, shlex.join(["bidkv", *sys.argv[1:]]))


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def split_numbers(option: str, text: str) -> list[float]:
    """Return the numbers of a comma-separated list; the option is named where one is not a number."""
    try:
        return [float(part) for part in split_names(text)]
    except ValueError:
        fail(f"{option}: expected numbers with commas between them, got {text!r}")


def first_seeds(split: SplitName, count: int) -> Sequence[int]:
    """Return the first seeds of a split; the number is refused where families.json fixes fewer."""
    from bidkv.workloads.families import split_seeds

    known = split_seeds(split.value)
    if not 1 <= count <= len(known):
        fail(f"--seeds: expected 1 to {len(known)} (families.json fixes them for {split.value}), got {count}")
    return known[:count]
