"""What `bidkv simulate` hands out: JSON, the report page, the table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bidkv.cli.errors import bad_input, fail

if TYPE_CHECKING:
    from rich.console import Console

    from bidkv.results import RunResult
    from bidkv.simulator.fleet import FleetResult

_PIPED_WIDTH = 120
"""Columns of the table where no terminal says how many there are."""


def hand_out(
    results: Sequence[RunResult],
    config: dict[str, Any],
    json_file: str | None,
    html_file: Path | None,
    fleets: Sequence[FleetResult] = (),
) -> None:
    """Write the JSON, the page and the tables, as asked; `fleets` are what `results` are the whole of."""
    summaries = [result.summary() for result in results]
    for summary, fleet in zip(summaries, fleets, strict=False):
        summary["replicas"] = [result.summary() for result in fleet.replicas]
    if json_file is not None:
        text = json.dumps({"config": config, "runs": summaries}, indent=2, allow_nan=False) + "\n"
        if json_file == "-":
            typer.echo(text, nl=False)
        else:
            Path(json_file).write_text(text, encoding="utf-8")
    if json_file != "-":
        title = f"{config['trace']}: {config['requests']:,} requests, {config['num_gpu_blocks']:,} KV blocks"
        if fleets:
            title += f" on each of {config['replicas']} replicas ({config['router']})"
        _print_table(summaries, title, config["arrival_rate_rps"])
        for summary in summaries if fleets else ():
            _print_replicas(summary)
    if html_file is not None:
        from bidkv.report.page import write_report

        write_report(html_file, results, config)
        typer.echo(f"report: {html_file}", err=json_file == "-")


def _print_table(summaries: Sequence[dict[str, Any]], title: str, arrival_rps: float | None) -> None:
    from bidkv.evaluation.tables import summary_table
    from bidkv.report import judge

    console = table_console()
    console.print(summary_table(summaries, title))
    console.print(f"\n{judge(summaries, arrival_rps)}", markup=False)


def _print_replicas(summary: dict[str, Any]) -> None:
    from bidkv.evaluation.tables import summary_table

    rows = [
        part | {"strategy": f"{index}: {part['requests']:,} requests"}
        for index, part in enumerate(summary["replicas"])
    ]
    console = table_console()
    console.print()
    console.print(summary_table(rows, f"{summary['strategy']}, replica by replica"))


def table_console() -> Console:
    """Return a console for a command's table: as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def require_report_extra() -> None:
    """Say before the run, not after it, that the page cannot be made."""
    from importlib.util import find_spec

    if missing := [name for name in ("altair", "vl_convert", "jinja2") if find_spec(name) is None]:
        fail(f"--html: the page needs {', '.join(missing)}: install bidkv with its [report] extra")


def require_writable(option: str, file: Path) -> None:
    """Say before the run, not after it, that a file cannot be written."""
    with bad_input(option):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
