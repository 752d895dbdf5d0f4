"""The plots that only an experiment has: the heat map of verdicts, requests one by one, fairness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bidkv.report.charts import HEIGHT, Chart, bare_spec, dataset_chart, params, strategy_color
from bidkv.report.experiment_series import QUARTERS

_ROW_HEIGHT = 30
_FULL_COLOR_PERCENT = 30.0
"""A change of this many percent has the full color, and so does a larger one."""


def heat_map(loads: Sequence[str], strategies: Sequence[str], baseline: str, figures: Sequence[str]) -> Chart:
    """Plot the change of every load and strategy against the baseline; data set `verdicts`."""
    others = [name for name in strategies if name != baseline]
    base = (
        dataset_chart("verdicts")
        .transform_filter("datum.figure === figure")
        .encode(
            alt.X("strategy:N", title=None, sort=others).axis(
                orient="top", labelAngle=-30, labelLimit=140, domain=False
            ),
            alt.Y("load:N", title=None, sort=list(loads)).axis(labelLimit=150, ticks=False, domain=False),
            tooltip=[
                alt.Tooltip("load:N"),
                alt.Tooltip("strategy:N"),
                alt.Tooltip("change:N", title="change (interval)"),
                alt.Tooltip("verdict:N"),
                alt.Tooltip("reason:N"),
                alt.Tooltip("pairs:Q", title="pairs of runs"),
            ],
        )
    )
    said = "datum.verdict === 'better' || datum.verdict === 'worse'"
    cells = base.mark_rect(cornerRadius=3).encode(
        alt.Color("gain:Q", legend=None).scale(
            domain=[-_FULL_COLOR_PERCENT, 0.0, _FULL_COLOR_PERCENT],
            clamp=True,
            type="linear",
            range="diverging",
            interpolate="rgb",
        ),
        # What is not shown stays pale: the eye must not find what the interval does not support.
        opacity=alt.condition(said, alt.value(0.75), alt.value(0.2)),
    )
    numbers = base.mark_text().encode(
        text=alt.Text("shown_change:N"),
        opacity=alt.condition(said, alt.value(1.0), alt.value(0.7)),
    )
    chart = (
        alt.layer(cells, numbers)
        .add_params(*params(strategies), alt.param(name="figure", value=figures[0]))
        .properties(width="container", height=_ROW_HEIGHT * len(loads))
    )
    return Chart(
        "heat", f"Change against {baseline} in percent; pale where no difference is shown", _wide(chart)
    )


def request_dots(strategies: Sequence[str], baseline: str, load: str) -> Chart:
    """Plot each request's seconds under a strategy over those under the baseline; data set `requests`."""
    base = dataset_chart("requests", load)
    dots = base.mark_circle(size=22, opacity=0.55).encode(
        alt.X("baseline_s:Q", title=f"seconds under {baseline} (log scale)").scale(type="log", nice=False),
        alt.Y("strategy_s:Q", title="seconds under the strategy").scale(type="log", nice=False),
        strategy_color(strategies),
        tooltip=["request:N", "strategy:N", "tokens:Q", "baseline_s:Q", "strategy_s:Q"],
    )
    line = base.mark_line(strokeDash=[4, 4], strokeWidth=1, color="gray").encode(
        alt.X("baseline_s:Q"), alt.Y("baseline_s:Q"), order="baseline_s:Q"
    )
    chart = alt.layer(line, dots).add_params(*params(strategies, load))
    spec = bare_spec(chart.properties(width="container", height=HEIGHT))
    return Chart("dots", "Each request: below the line it was faster than under the baseline", spec)


def fairness(strategies: Sequence[str], load: str) -> tuple[Chart, Chart]:
    """Plot the wait for each output token by request size, and Jain's index; data set `fairness`."""
    lines = (
        dataset_chart("fairness", load)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            alt.X("quarter:N", title="requests by size", sort=list(QUARTERS)).axis(labelAngle=0),
            alt.Y("seconds_per_token:Q", title="seconds per output token"),
            strategy_color(strategies),
            tooltip=["strategy:N", "quarter:N", "seconds_per_token:Q"],
        )
    )
    bars = (
        dataset_chart("fairness", load)
        .transform_filter(alt.datum.quarter == QUARTERS[0])
        .mark_bar(height=18)
        .encode(
            alt.Y("strategy:N", title=None, sort=list(strategies)).axis(
                labelLimit=150, labelPadding=8, ticks=False, domain=False
            ),
            alt.X("jain_index:Q", title="Jain's index, 1 when all wait alike").scale(domain=[0, 1]),
            strategy_color(strategies),
            tooltip=["strategy:N", "jain_index:Q"],
        )
    )
    sized = lines.add_params(*params(strategies, load)).properties(width="container", height=HEIGHT)
    index = bars.add_params(*params(strategies, load)).properties(
        width="container", height=_ROW_HEIGHT * len(strategies)
    )
    return (
        Chart("sizes", "Mean wait for each output token, by request size", bare_spec(sized)),
        Chart("jain", "How evenly requests wait", bare_spec(index)),
    )


def _wide(chart: alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    spec = bare_spec(chart)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
