"""`bidkv report`: the verdict, the page and the tables of an experiment's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.options import HtmlFile
from bidkv.cli.outputs import require_all_writable, require_extra, table_console
from bidkv.results.files import write_output

if TYPE_CHECKING:
    from bidkv.experiments.analysis import ExperimentAnalysis


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An experiment's --output-dir.")],
    html_file: HtmlFile = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write everything as Markdown tables.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write one row per run with all figures.")
    ] = None,
    ttft_slo_s: Annotated[
        float, typer.Option(metavar="S", help="Target: most seconds to the first token.")
    ] = 2.0,
    tpot_slo_s: Annotated[
        float, typer.Option(metavar="S", help="Target: most seconds per later token, on average.")
    ] = 0.1,
) -> None:
    """Judge an experiment, finished or not, as far as it has run.

    \b
    Examples:
      bidkv report results/vllm_experiment
      bidkv report results/vllm_experiment --html report.html --markdown report.md
    """
    require_extra("experiments", "the verdict")
    if html_file is not None:
        require_extra("report", "--html")
    require_all_writable((("--html", html_file), ("--markdown", markdown_file), ("--csv", csv_file)))

    from bidkv.evaluation.latency_target import LatencyTarget
    from bidkv.experiments.analysis import analyze_store
    from bidkv.experiments.analysis_text import markdown, runs_csv
    from bidkv.experiments.store import Store, StoreError

    try:
        with bad_input("report"):
            analysis = analyze_store(Store.open(folder), LatencyTarget(ttft_s=ttft_slo_s, tpot_s=tpot_slo_s))
    except StoreError as error:
        fail(f"report: {error}")
    # Before anything is printed, which a closed pipe would end.
    if markdown_file is not None:
        write_output(markdown_file, markdown(analysis), "backslashreplace")
    if csv_file is not None:
        write_output(csv_file, runs_csv(analysis), "backslashreplace")
    if html_file is not None:
        from bidkv.report.experiment_page import write_experiment_page

        write_experiment_page(html_file, analysis)
    _print(analysis)
    for file in filter(None, (html_file, markdown_file, csv_file)):
        typer.echo(f"written: {file}")


def _print(analysis: ExperimentAnalysis) -> None:
    from rich.table import Table
    from rich.text import Text

    from bidkv.experiments.analysis_text import describe, mean_rows

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("load", "strategy", *(figure.heading for figure in analysis.columns)):
        table.add_column(heading, justify="left" if heading in ("load", "strategy") else "right")
    for row in mean_rows(analysis):
        table.add_row(*map(Text, row))
    console = table_console()
    console.print(table)
    console.print(f"\n{describe(analysis)}", markup=False)
