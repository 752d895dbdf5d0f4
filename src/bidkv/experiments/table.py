"""The table a terminal shows: one line a strategy, the best value of each column marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bidkv.experiments.figures import TABLE, Figure, Summary


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
    for summary in summaries:
        cells = [_cell(figure, summary, summaries) for figure in TABLE]
        table.add_row(Text(summary["strategy"]), *cells)
    return table


def _cell(figure: Figure, summary: Summary, summaries: Sequence[Summary]) -> Text:
    value = figure.of(summary)
    if value is None:
        return Text("-")
    best = len(summaries) > 1 and value == figure.best(summaries)
    return Text(figure.show(value), style="bold green" if best else "")
