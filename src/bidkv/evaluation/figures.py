"""The figures every table shows: where they stand in a summary, which way is better, how they print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bidkv.baselines import ENGINE_ORDER

Summary = Mapping[str, Any]
"""What :meth:`bidkv.results.RunResult.summary` returns."""


def seconds(value: float) -> str:
    """Print seconds with three significant digits.

    >>> seconds(0.04567), seconds(3.14159), seconds(12.345), seconds(1234.5)
    ('0.046 s', '3.14 s', '12.3 s', '1,234 s')
    """
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} s"


def percent(value: float) -> str:
    """Print a share as a percentage.

    >>> percent(0.12345)
    '12.3%'
    """
    return f"{100 * value:.1f}%"


def count(value: float) -> str:
    """Print a whole number.

    >>> count(19366)
    '19,366'
    """
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """Print a rate.

    >>> rate(3.14159)
    '3.14'
    """
    return f"{value:,.2f}"


def alike(a: float, b: float) -> bool:
    """Whether two values differ by less than a thousandth: no reader could act on less.

    >>> alike(5.000, 5.004), alike(5.00, 5.01)
    (True, False)
    """
    return abs(a - b) <= 1e-3 * max(abs(a), abs(b))


@dataclass(frozen=True, slots=True)
class Figure:
    """One column of a table.

    Attributes:
        path: where it stands in a summary, names joined by dots.
        label: its name in a sentence.
        heading: its name above a column.
        better: which way is better; None when neither is.
        show: how a value is printed.
    """

    path: str
    label: str
    heading: str
    better: Literal["lower", "higher"] | None
    show: Callable[[float], str]

    def of(self, summary: Summary) -> float | None:
        """Read the figure from a run's summary; None when it was not measured."""
        value: Any = summary
        for name in self.path.split("."):
            value = value[name]
        return None if value is None else float(value)

    def best(self, summaries: Sequence[Summary]) -> float | None:
        """Return the best value among runs; None when no way is better or nothing was measured."""
        values = [v for v in map(self.of, summaries) if v is not None]
        if self.better is None or not values:
            return None
        return min(values) if self.better == "lower" else max(values)

    def leaders(self, summaries: Sequence[Summary]) -> list[Summary]:
        """Return the runs whose value is the best or as good as it (:func:`alike`)."""
        best = self.best(summaries)
        if best is None:
            return []
        return [s for s in summaries if (value := self.of(s)) is not None and alike(value, best)]


THROUGHPUT = Figure("throughput_rps", "throughput in requests per second", "req/s", "higher", rate)
TTFT_MEAN = Figure("ttft_s.mean", "mean time to first token", "TTFT mean", "lower", seconds)
TTFT_P99 = Figure("ttft_s.p99", "p99 time to first token", "TTFT p99", "lower", seconds)
E2E_MEAN = Figure("e2e_s.mean", "mean end-to-end latency", "e2e mean", "lower", seconds)
E2E_P50 = Figure("e2e_s.p50", "median end-to-end latency", "e2e p50", "lower", seconds)
E2E_P99 = Figure("e2e_s.p99", "p99 end-to-end latency", "e2e p99", "lower", seconds)
PREEMPTIONS = Figure("preemptions", "preemptions", "preempt.", "lower", count)
TAX = Figure("recompute_tax", "recompute tax", "tax", "lower", percent)
KV_USE = Figure("kv_utilization_mean", "mean KV use", "KV use", None, percent)

TABLE = (THROUGHPUT, TTFT_MEAN, TTFT_P99, E2E_MEAN, E2E_P50, E2E_P99, PREEMPTIONS, TAX, KV_USE)
"""The columns of the tables for people, in order."""


def baseline_of(summaries: Sequence[Summary]) -> Summary:
    """Return the run the others are compared with: the engine's own order when it ran, else the first."""
    return next((s for s in summaries if s["strategy"] == ENGINE_ORDER), summaries[0])


class Cell(NamedTuple):
    """A value as a table prints it, and whether to mark it as the best of its column."""

    text: str
    best: bool


class Row(NamedTuple):
    """One strategy's line of a table, in the order of :data:`TABLE`."""

    strategy: str
    cells: list[Cell]


def table_rows(summaries: Sequence[Summary]) -> list[Row]:
    """Lay runs of the same workload side by side; a column in which all are alike marks nobody."""
    marked = [leaders if len(leaders := f.leaders(summaries)) < len(summaries) else [] for f in TABLE]
    rows = []
    for summary in summaries:
        cells = [
            Cell("-" if (value := figure.of(summary)) is None else figure.show(value), summary in leaders)
            for figure, leaders in zip(TABLE, marked, strict=True)
        ]
        rows.append(Row(summary["strategy"], cells))
    return rows
