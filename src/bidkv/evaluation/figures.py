"""The figures that tables show: where each stands in a summary, which way is better, how it prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bidkv.evaluation.baseline import choose_baseline
from bidkv.protocol.texts import split_list

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


def ratio(value: float) -> str:
    """Print a ratio.

    >>> ratio(1.2345)
    '1.23'
    """
    return f"{value:.2f}"


def nearly_equal(a: float, b: float) -> bool:
    """Tell whether two values differ by at most a thousandth, less than any reader could act on.

    >>> nearly_equal(5.000, 5.004), nearly_equal(5.00, 5.01)
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

    def read(self, summary: Summary) -> float | None:
        """Return the figure from a run's summary; None when it was not measured."""
        value: Any = summary
        for name in self.path.split("."):
            if value is None:
                return None
            # Runs recorded before a figure existed do not have it.
            value = value.get(name)
        return None if value is None else float(value)

    def best(self, summaries: Sequence[Summary]) -> float | None:
        """Return the best value among runs; None when no way is better or nothing was measured."""
        values = [v for v in map(self.read, summaries) if v is not None]
        if self.better is None or not values:
            return None
        return min(values) if self.better == "lower" else max(values)

    def leaders(self, summaries: Sequence[Summary]) -> list[Summary]:
        """Return the runs whose value is the best or as good as it (:meth:`are_alike`)."""
        best = self.best(summaries)
        if best is None:
            return []
        return [s for s in summaries if (value := self.read(s)) is not None and self.are_alike(value, best)]

    def are_alike(self, a: float, b: float) -> bool:
        """Tell whether two values are nearly equal, or print alike so that no reader can see a difference."""
        return nearly_equal(a, b) or self.show(a) == self.show(b)


THROUGHPUT = Figure("throughput_rps", "throughput in requests per second", "req/s", "higher", rate)
TTFT_MEAN = Figure("ttft_s.mean", "mean time to first token", "TTFT mean", "lower", seconds)
TTFT_P99 = Figure("ttft_s.p99", "p99 time to first token", "TTFT p99", "lower", seconds)
E2E_MEAN = Figure("e2e_s.mean", "mean end-to-end latency", "e2e mean", "lower", seconds)
E2E_P50 = Figure("e2e_s.p50", "median end-to-end latency", "e2e p50", "lower", seconds)
E2E_P99 = Figure("e2e_s.p99", "p99 end-to-end latency", "e2e p99", "lower", seconds)
PREEMPTIONS = Figure("preemptions", "preemptions", "preempt.", "lower", count)
TAX = Figure("recompute_tax", "recompute tax", "tax", "lower", percent)
KV_USE = Figure("kv_utilization_mean", "mean KV use", "KV use", None, percent)
OUTPUT_RATE = Figure("output_tokens_per_s", "output tokens per second", "tok/s", "higher", rate)
TTFT_P50 = Figure("ttft_s.p50", "median time to first token", "TTFT p50", "lower", seconds)
TPOT_MEAN = Figure("tpot_s.mean", "mean time per output token", "TPOT mean", "lower", seconds)
TPOT_P99 = Figure("tpot_s.p99", "p99 time per output token", "TPOT p99", "lower", seconds)
ITL_P50 = Figure("itl_s.p50", "median inter-token latency", "ITL p50", "lower", seconds)
ITL_P99 = Figure("itl_s.p99", "p99 inter-token latency", "ITL p99", "lower", seconds)
LONGEST_GAP = Figure("longest_gap_s", "longest gap between two tokens", "longest gap", "lower", seconds)
HIT_RATE = Figure("prefix_hit_rate", "prefix hit rate", "hits", "higher", percent)
LOST_PREFIX = Figure(
    "lost_prefix_share", "share of computed tokens whose cached prefix was lost", "lost", "lower", percent
)

TABLE = (THROUGHPUT, TTFT_MEAN, TTFT_P99, E2E_MEAN, E2E_P50, E2E_P99, PREEMPTIONS, TAX, KV_USE)
"""The columns that every table has, in order."""

_WHERE_MEASURED = (TPOT_P99, ITL_P99, LONGEST_GAP, HIT_RATE, LOST_PREFIX)
"""Columns for engines that report token times, or that look prompts up in a prefix cache."""

TURNS = Figure("sessions.turns", "turns finished", "turns", "higher", count)
TURN_RATE = Figure("sessions.turns_per_s", "turns per second", "turns/s", "higher", rate)
SESSIONS_DONE = Figure("sessions.completed", "sessions completed", "done", "higher", count)
TURN_MEAN = Figure("sessions.turn_s.mean", "mean turn latency", "turn mean", "lower", seconds)
TURN_P99 = Figure("sessions.turn_s.p99", "p99 turn latency", "turn p99", "lower", seconds)
FIRST_WAIT_P99 = Figure(
    "sessions.first_turn_wait_s.p99", "p99 wait of the first turn", "first wait p99", "lower", seconds
)
COMPLETION_MEAN = Figure(
    "sessions.completion_s.mean", "mean session completion time", "session mean", "lower", seconds
)
COMPLETION_P99 = Figure(
    "sessions.completion_s.p99", "p99 session completion time", "session p99", "lower", seconds
)
COMPUTED_PER_NEW = Figure(
    "sessions.computed_per_new_token", "computed tokens per new token", "computed/new", "lower", ratio
)
SESSION_HITS = Figure("sessions.prefix_hit_rate", "prefix hit rate", "hits", "higher", percent)
SESSION_LOST = Figure("sessions.lost_prefix_share", LOST_PREFIX.label, "lost", "lower", percent)

SESSION_TABLE = (
    TURNS,
    TURN_RATE,
    SESSIONS_DONE,
    TURN_MEAN,
    TURN_P99,
    FIRST_WAIT_P99,
    COMPLETION_MEAN,
    COMPLETION_P99,
    COMPUTED_PER_NEW,
    SESSION_HITS,
    SESSION_LOST,
)
"""The columns of the second table that runs of sessions have, in order."""


ALL_FIGURES = (
    *(THROUGHPUT, OUTPUT_RATE, TTFT_MEAN, TTFT_P50, TTFT_P99, TPOT_MEAN, TPOT_P99, ITL_P50, ITL_P99),
    *(LONGEST_GAP, E2E_MEAN, E2E_P50, E2E_P99, PREEMPTIONS, TAX, KV_USE, HIT_RATE, LOST_PREFIX),
    *SESSION_TABLE,
)
"""Every figure that a table can show, in order."""


def choose_figures(text: str) -> tuple[Figure, ...]:
    """Return the figures of a comma-separated list, by their names in JSON or above a column.

    Raises:
        ValueError: a name of none, or twice the same; the message lists the names.

    >>> [figure.path for figure in choose_figures("TPOT p99, ttft_s.mean")]
    ['tpot_s.p99', 'ttft_s.mean']
    """
    known = {figure.path: figure for figure in ALL_FIGURES}
    # A heading that sessions have too means the figure of all requests.
    headings = {figure.heading.casefold(): figure for figure in reversed(ALL_FIGURES)}
    chosen: list[Figure] = []
    for part in split_list(text):
        figure = known.get(part) or headings.get(part.casefold())
        if figure is None:
            raise ValueError(f"expected figures out of {', '.join(known)}, found {part!r:.60}")
        if figure in chosen:
            raise ValueError(f"expected each figure once, found {part!r:.60} twice")
        chosen.append(figure)
    return tuple(chosen)


def measured_figures(
    summaries: Sequence[Summary], figures: Sequence[Figure] = (*TABLE, *_WHERE_MEASURED)
) -> list[Figure]:
    """Return the figures of a table for these runs: :data:`TABLE`, and others that some run has."""
    return [
        figure
        for figure in figures
        if figure in TABLE or any(figure.read(summary) is not None for summary in summaries)
    ]


def baseline_summary(summaries: Sequence[Summary]) -> Summary:
    """Return the run the others are compared with, by :func:`~bidkv.evaluation.baseline.choose_baseline`."""
    name = choose_baseline([summary["strategy"] for summary in summaries])
    return next(summary for summary in summaries if summary["strategy"] == name)


class TableCell(NamedTuple):
    """A value as a table prints it, and whether to mark it as the best of its column."""

    text: str
    is_best: bool


class TableRow(NamedTuple):
    """One strategy's line of a table, in the order of its figures."""

    strategy: str
    cells: list[TableCell]


def table_rows(summaries: Sequence[Summary], figures: Sequence[Figure] = TABLE) -> list[TableRow]:
    """Lay runs of the same workload side by side. A column whose values are all nearly equal marks none."""
    marked = [leaders if len(leaders := f.leaders(summaries)) < len(summaries) else [] for f in figures]
    rows = []
    for summary in summaries:
        cells = [
            TableCell("-" if (value := figure.read(summary)) is None else figure.show(value), summary in best)
            for figure, best in zip(figures, marked, strict=True)
        ]
        rows.append(TableRow(summary["strategy"], cells))
    return rows
