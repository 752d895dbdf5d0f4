"""Tables for a terminal and for Markdown, one way to lay each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bidkv.evaluation.figures import Figure, Summary, measured_figures, table_rows

if TYPE_CHECKING:
    from rich.table import Table


def summary_tables(
    summaries: Sequence[Summary],
    width: int,
    title: str | None = None,
    figures: Sequence[Figure] | None = None,
) -> list[Table]:
    """Lay runs of the same workload side by side for a terminal; the best value of a column is marked.

    Columns that do not fit beside each other continue in further tables, so that no figure is cut.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` per strategy.
        width: columns of the terminal.
        title: a line above the first table.
        figures: columns; None takes those of :func:`~bidkv.evaluation.figures.measured_figures`.
    """
    from rich.table import Table
    from rich.text import Text

    columns = measured_figures(summaries) if figures is None else list(figures)
    rows = table_rows(summaries, columns)
    names = max(len(text) for text in ("strategy", *(row.strategy for row in rows)))
    widths = [
        max(len(figure.heading), *(len(row.cells[place].text) for row in rows))
        for place, figure in enumerate(columns)
    ]
    tables: list[Table] = []
    for first, end in _split(widths, width - names):
        table = Table(
            title=None if tables else title,
            title_justify="left",
            pad_edge=False,
            padding=(0, 1, 0, 0),
            box=None,
        )
        table.add_column("strategy", no_wrap=True)
        for figure in columns[first:end]:
            table.add_column(figure.heading, justify="right", no_wrap=True)
        for row in rows:
            cells = [
                Text(cell.text, style="bold green" if cell.is_best else "") for cell in row.cells[first:end]
            ]
            table.add_row(Text(row.strategy), *cells)
        tables.append(table)
    return tables


def _split(widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Return the (first, end) of runs of columns that fit into `room`, a blank before each; one at least."""
    runs: list[tuple[int, int]] = []
    first, used = 0, 0
    for place, width in enumerate(widths):
        if place > first and used + 1 + width > room:
            runs.append((first, place))
            first, used = place, 0
        used += 1 + width
    return [*runs, (first, len(widths))]


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
