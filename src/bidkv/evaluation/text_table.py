"""The table a terminal shows: one line a strategy, the best value of each column marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bidkv.evaluation.figures import TABLE, Summary, table_rows


def summary_table(summaries: Sequence[Summary], title: str | None = None) -> Table:
    """Lay runs of the same workload side by side.

    Args:
        summaries: one :meth:`~bidkv.results.RunResult.summary` a strategy.
        title: a line above the table.
    """
    table = Table(title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0), box=None)
    table.add_column("strategy", no_wrap=True)
    for figure in TABLE:
        table.add_column(figure.heading, justify="right")
    for row in table_rows(summaries):
        cells = [Text(cell.text, style="bold green" if cell.best else "") for cell in row.cells]
        table.add_row(Text(row.strategy), *cells)
    return table
