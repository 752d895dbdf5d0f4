"""Tables for a terminal and for Markdown, one way to lay each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bidkv.evaluation.figures import Figure, Summary, measured_figures, table_rows

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(
    summaries: Sequence[Summary], title: str | None = None, figures: Sequence[Figure] | None = None
) -> Table:
    """Lay runs of the same workload side by side for a terminal; the best value of a column is marked.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` per strategy.
        title: a line above the table.
        figures: its columns; None takes those of :func:`~bidkv.evaluation.figures.measured_figures`.
    """
    from rich.table import Table
    from rich.text import Text

    columns = measured_figures(summaries) if figures is None else list(figures)
    table = Table(title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0), box=None)
    table.add_column("strategy", no_wrap=True)
    for figure in columns:
        table.add_column(figure.heading, justify="right")
    for row in table_rows(summaries, columns):
        cells = [Text(cell.text, style="bold green" if cell.is_best else "") for cell in row.cells]
        table.add_row(Text(row.strategy), *cells)
    return table


def aligned_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a plain table: the first column flush left, the others flush right.

    >>> aligned_table(["policy", "mean"], [["lcf", "0.98"]])
    ['policy  mean', 'lcf     0.98']
    """
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; a vertical bar inside a cell is escaped.

    >>> markdown_table(["policy", "mean"], [["lcf", "0.98"]])
    ['| policy | mean |', '| --- | --- |', '| lcf | 0.98 |']
    """
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
