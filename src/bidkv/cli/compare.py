"""`bidkv compare`: two JSON results beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli import options as opt
from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import require_all_writable, require_extra, table_console, write_json

if TYPE_CHECKING:
    from bidkv.evaluation.comparison import Comparison, FigureChange

WORSE = 1
"""Exit code where the second side is worse by more than `--fail-if-worse`."""

_PICTURES = (".html", ".svg", ".png")

Side = Annotated[
    Path,
    typer.Argument(help="A result of bidkv simulate --json, or a folder of them with different seeds."),
]


def command(
    a: Side,
    b: Side,
    figures: opt.Figures = None,
    any_workload: Annotated[
        bool, typer.Option("--any-workload", help="Compare even where the workloads differ.")
    ] = False,
    fail_if_worse: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Exit code 1 where B is worse than A by more than this in a figure (0.05 is 5 %).",
        ),
    ] = None,
    json_file: opt.JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ratios (.html, .svg or .png).")
    ] = None,
) -> None:
    """Put two results beside each other: what differs, ratios, and which is better.

    A and B are files of bidkv simulate --json on the same workload. Strategies of the same name are compared;
    where each side has only one, these two are. A folder holds one file for each seed: ratios are then
    geometric means with 95 % intervals over seeds, and a side is called better only where the interval
    excludes 1. The exit code is 1 where --fail-if-worse says so, and 2 for files that are not results or do
    not match.

    \b
    Examples:
      bidkv compare before.json after.json
      bidkv compare a.json b.json --figures ttft_s.p99,throughput_rps --picture change.html
      bidkv compare seeds-before/ seeds-after/ --fail-if-worse 0.02
    """
    from bidkv.evaluation.comparison import compare_sides, read_side
    from bidkv.evaluation.figures import ALL_FIGURES, choose_figures

    if fail_if_worse is not None and not 0.0 <= fail_if_worse < float("inf"):
        fail(f"--fail-if-worse: expected a share of at least 0, such as 0.05, got {fail_if_worse}")
    if picture is not None:
        if picture.suffix not in _PICTURES:
            fail(f"--picture: expected a name that ends in .html, .svg or .png, got {str(picture)!r}")
        require_extra("report", "--picture")
    require_all_writable((("--json", json_file), ("--picture", picture)))
    with bad_input("--figures"):
        chosen = ALL_FIGURES if figures is None else choose_figures(figures)
    with bad_input("compare"):
        sides = read_side(a), read_side(b)
        if max(map(len, sides)) > 1:
            require_extra("sim", "an interval over seeds")
        comparison = compare_sides(*sides, chosen, any_workload=any_workload)
    losses = [] if fail_if_worse is None else comparison.losses(fail_if_worse)
    document = {"a_files": _names(sides[0]), "b_files": _names(sides[1]), **comparison.as_dict()}
    if picture is not None:  # before anything is printed, which a closed pipe would end
        from bidkv.evaluation.comparison_picture import comparison_chart
        from bidkv.evaluation.pictures import save_chart

        save_chart(picture, comparison_chart(comparison, a.stem, b.stem), _PICTURES)
    is_stdout_taken = write_json(document, json_file)
    if not is_stdout_taken:
        _print(comparison, str(a), str(b))
    if picture is not None:
        typer.echo(f"picture: {picture}", err=is_stdout_taken)
    for name, change in losses:
        typer.echo(f"bidkv: worse: {name}: {change.figure.label}: {_ratio(change)}", err=True)
    if losses:
        raise typer.Exit(WORSE)


def _names(side: Any) -> list[str]:
    return [str(file.path) for file in side]


def _print(comparison: Comparison, a: str, b: str) -> None:
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    console.print(f"A: {a}\nB: {b}", markup=False)
    if len(comparison.seeds) > 1:
        console.print(f"{len(comparison.seeds)} seeds; ratios with 95 % intervals over them", markup=False)
    for name, (first, second) in comparison.differences.items():
        console.print(f"{name}: {first} in A, {second} in B", markup=False)
    for name, changes in comparison.changes.items():
        table = Table(title=f"\n{name}", title_justify="left", pad_edge=False, padding=(0, 2, 0, 0), box=None)
        for heading in ("figure", "A", "B", "B / A", "better"):
            table.add_column(heading, justify="left" if heading == "figure" else "right")
        for change in changes:
            show = change.figure.show
            cells = (show(change.a), show(change.b), _ratio(change), change.better.upper() or "-")
            table.add_row(Text(change.figure.label), *map(Text, cells))
        console.print(table)
    if comparison.alone:
        console.print(f"\nnot compared, on one side only: {', '.join(comparison.alone)}", markup=False)


def _ratio(change: FigureChange) -> str:
    if change.ratio is None:
        return "-"
    if change.low is None or change.high is None:
        return f"{change.ratio:.3f}"
    return f"{change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})"
