"""One self-contained HTML page: verdict, table, plots and data; offline, in light and dark, on a phone.

Everything is inline: the chart library (Vega, Vega-Lite and vega-embed, bundled by vl-convert), the data
(once), style and script. A content security policy on the page forbids the browser any connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from bidkv._version import __version__
from bidkv.evaluation.figures import (
    SESSION_TABLE,
    Summary,
    baseline_summary,
    measured_figures,
    table_rows,
)
from bidkv.report import charts, series
from bidkv.report.verdict import find_growths, judge
from bidkv.results import RunResult
from bidkv.results.files import write_output


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: charts that belong together, the text above them, and the data set they share."""

    heading: str
    text: str
    dataset: str
    charts: Sequence[charts.Chart]


def write_report(path: Path, results: Sequence[RunResult], config: Mapping[str, Any]) -> None:
    """Write the report page of runs of one workload.

    Args:
        path: the HTML file; its folder is made when missing.
        results: one run per strategy, at least one; strategies have different names.
        config: what was run (the `config` object of `bidkv simulate --json`), printed on the page.

    Raises:
        ValueError: there is no run to report.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, render_report(results, config), "backslashreplace")


def render_report(results: Sequence[RunResult], config: Mapping[str, Any]) -> str:
    """Return the page of :func:`write_report` as text; the same input gives the same page."""
    summaries = [result.summary() for result in results]
    verdict = judge(summaries, find_growths(results, config))
    strategies = [result.strategy for result in results]
    datasets = {
        "latency": series.latency_rows(results),
        "timeline": series.timeline_rows(results),
        "tax": series.tax_rows(results),
        "figures": [_flat(summary) for summary in summaries],
    }
    if memory := series.memory_rows(results):
        datasets["memory"] = memory
    sections = _sections(results, strategies, baseline_summary(summaries)["strategy"])
    columns, session_columns = measured_figures(summaries), measured_figures(summaries, SESSION_TABLE)
    named = strategies[0] if len(strategies) == 1 else f"{len(strategies)} strategies"
    return render(
        "page.html.j2",
        sections,
        datasets,
        title=f"{named} on {config.get('trace', 'one workload')}",
        verdict=verdict,
        strategies=strategies,
        baseline=baseline_summary(summaries)["strategy"],
        headings=[figure.heading for figure in columns],
        rows=table_rows(summaries, columns),
        session_headings=[figure.heading for figure in session_columns],
        session_rows=table_rows(summaries, session_columns) if session_columns else [],
        config=config,
    )


def render(
    template: str, sections: Sequence[Section], datasets: Mapping[str, Sequence[series.Row]], **words: Any
) -> str:
    """Return a page: a template filled with text, charts and the data they share.

    Args:
        template: its name; it extends `base.html.j2`.
        sections: the parts with charts, in order.
        datasets: each data set of the sections, and `figures`.
        words: the other variables of the template.
    """
    specs = {chart.chart_id: chart.spec for section in sections for chart in section.charts}
    chart_data = {chart.chart_id: section.dataset for section in sections for chart in section.charts}
    tables = {name: _as_table(rows) for name, rows in datasets.items()}
    environment = Environment(
        loader=PackageLoader("bidkv.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(
        version=__version__,
        sections=sections,
        page_data=_for_script({"data": tables, "specs": specs, "chartData": chart_data}),
        library=_chart_library(),
        **words,
    )


def _sections(results: Sequence[RunResult], strategies: Sequence[str], baseline: str) -> list[Section]:
    most = max(len(result.records) for result in results)
    points = max(len(result.timeline) for result in results)
    sections = [
        Section(
            "Latency",
            f"Each curve has the {series.CDF_STEPS} nearest-rank percentiles 0.5, 1, ... 100 of up to "
            f"{most:,} requests. Further left is faster.",
            "latency",
            charts.latency_curves(strategies, baseline),
        ),
        Section(
            "KV use and preemptions over time",
            f"KV use is the time average over each of {series.TIME_STEPS} equal parts of the longest run, "
            f"taken from up to {points:,} recorded points per run; preemptions count up to the part's end.",
            "timeline",
            charts.timelines(strategies, baseline),
        ),
        Section(
            "Recompute tax",
            "The share of all computed tokens that were computed before and lost to a preemption.",
            "tax",
            [charts.tax_bars(strategies)],
        ),
    ]
    if any(point.idle_session_blocks for result in results for point in result.timeline):
        memory = Section(
            "The KV cache: running requests, idle sessions, free",
            "Blocks of idle sessions hold the past of sessions between two turns. Where running requests and "
            "idle sessions fill the cache, the next request evicts some session's past, which is computed "
            "again at its next turn.",
            "memory",
            charts.memory_areas(strategies),
        )
        sections.insert(1, memory)
    return sections


def _flat(summary: Summary) -> dict[str, Any]:
    """Return a summary without nesting, for a CSV file: `e2e_s` with `mean` becomes `e2e_s.mean`."""
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": part for inner, part in value.items()})
        else:
            flat[name] = value
    return flat


def _as_table(rows: Sequence[series.Row]) -> dict[str, Any]:
    """Return column names and bare rows: names repeated in every row would make up half of a large page."""
    columns = list(rows[0]) if rows else []
    return {"columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def _for_script(value: Any) -> str:
    """Return JSON that is safe inside a script element, since none of its text can close the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def _chart_library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, with closing tags inside its strings escaped."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
