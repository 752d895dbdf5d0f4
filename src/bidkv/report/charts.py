"""The plots of the page, as Vega-Lite specifications without data: the page holds each data set once.

Each chart filters on the parameter `shown` (a list of strategies) and fades all strategies but `highlight`.
The page's own buttons set both, so that one legend works for all charts and by keyboard. Colors come from the
page's theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

HEIGHT = 250
"""Height of a plot in pixels."""

BAR_HEIGHT = 30
"""Height of a bar and its gap in pixels."""

MEMORY_PARTS = ("free", "running requests", "idle sessions")
"""The parts of the KV cache over time, in the order of their colors."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot: its element id on the page, its title in words, and its specification."""

    chart_id: str
    title: str
    spec: dict[str, Any]


def latency_curves(strategies: Sequence[str], baseline: str, load: str | None = None) -> tuple[Chart, Chart]:
    """Plot the distribution of TTFT and of end-to-end latency; data set `latency`.

    With a `load` the data set has a column of that name, and the plots show that one first.
    """

    def curve(metric: str) -> dict[str, Any]:
        x = alt.X("seconds:Q", title="seconds (log scale)").scale(type="log", nice=False)
        y = alt.Y("percent:Q", title="% of requests at most this slow").scale(domain=[0, 100])
        base = dataset_chart("latency", load).transform_filter(alt.datum.metric == metric)
        lines = base.mark_line(strokeWidth=2).encode(
            x,
            y,
            strategy_color(strategies),
            order="percent:Q",
            strokeDash=_dash(baseline),
            opacity=_faded(),
        )
        return _layered(
            lines,
            _ruler(base, y, "percent", "% of requests", "seconds", ".3~r", strategies),
            strategies,
            load,
        )

    return (
        Chart("ttft", "Time to first token", curve("TTFT")),
        Chart("e2e", "End-to-end latency", curve("end to end")),
    )


def timelines(
    strategies: Sequence[str], baseline: str, load: str | None = None
) -> tuple[Chart, Chart, Chart]:
    """Plot KV use, preemptions so far and the queue over the engine's time; data set `timeline`."""

    def line(field: str, y: alt.Y, form: str) -> dict[str, Any]:
        x = alt.X("time_s:Q", title="engine time in seconds")
        base = dataset_chart("timeline", load)
        lines = base.mark_line(strokeWidth=1.5).encode(
            x, y, strategy_color(strategies), strokeDash=_dash(baseline), opacity=_faded()
        )
        return _layered(
            lines, _ruler(base, x, "time_s", "seconds", field, form, strategies), strategies, load
        )

    use = alt.Y("kv_use:Q", title="KV blocks in use").axis(format="%").scale(domain=[0, 1])
    events = alt.Y("preemptions:Q", title="preemptions")
    queue = alt.Y("waiting:Q", title="requests that wait")
    return (
        Chart("kv", "KV cache in use", line("kv_use", use, ".1%")),
        Chart("preemptions", "Preemptions so far", line("preemptions", events, ",")),
        Chart("queue", "Requests that wait to enter", line("waiting", queue, ",.1f")),
    )


def tax_bars(strategies: Sequence[str], load: str | None = None) -> Chart:
    """Plot the share of scheduled tokens that had been computed before; data set `tax`."""
    base = dataset_chart("tax", load).encode(
        alt.Y("strategy:N", title=None, sort=list(strategies)).axis(
            labelLimit=150, labelPadding=8, ticks=False, domain=False
        ),
        alt.X("recompute_tax:Q", title="share of all scheduled tokens").axis(format="%"),
        tooltip=[
            alt.Tooltip("strategy:N"),
            alt.Tooltip("recompute_tax:Q", format=".2%", title="recompute tax"),
            alt.Tooltip("recomputed_tokens:Q", format=","),
            alt.Tooltip("scheduled_tokens:Q", format=","),
            alt.Tooltip("preemptions:Q", format=","),
        ],
    )
    bars = base.mark_bar(height=18).encode(strategy_color(strategies))
    labels = base.mark_text(align="left", dx=5).encode(text=alt.Text("recompute_tax:Q", format=".1%"))
    # The label of the longest bar stands to the right of it.
    height = BAR_HEIGHT * len(strategies)
    chart = (
        alt.layer(bars, labels)
        .add_params(*params(strategies, load))
        .properties(width="container", height=height, padding={"left": 5, "top": 5, "right": 40, "bottom": 5})
    )
    return Chart("tax", "Tokens computed again, as a share of all computed", bare_spec(chart))


def dataset_chart(dataset: str, load: str | None = None) -> alt.Chart:
    """Return a chart of a data set's rows of the strategies shown and, with a `load`, of the one chosen."""
    chart: alt.Chart = alt.Chart(alt.NamedData(dataset)).transform_filter(
        "indexof(shown, datum.strategy) >= 0"
    )
    return chart if load is None else chart.transform_filter("datum.load === load")


def params(strategies: Sequence[str], load: str | None = None) -> list[alt.Parameter]:
    """Return the parameters that the page's own buttons and selects set."""
    shown = [alt.param(name="shown", value=list(strategies)), alt.param(name="highlight", value="")]
    return shown if load is None else [*shown, alt.param(name="load", value=load)]


def strategy_color(strategies: Sequence[str]) -> alt.Color:
    """Return the encoding of strategies as the theme's colors; the page's buttons are the legend."""
    return alt.Color("strategy:N", legend=None).scale(domain=list(strategies))


def memory_areas(strategies: Sequence[str], load: str | None = None) -> list[Chart]:
    """Plot which part of the KV cache running requests, idle sessions and nothing hold; data set `memory`.

    There is one plot per strategy: stacked areas of several would hide each other.
    """
    charts = []
    for index, strategy in enumerate(strategies):
        area = (
            dataset_chart("memory", load)
            .transform_filter(alt.datum.strategy == strategy)
            .mark_area(opacity=0.8)
            .encode(
                alt.X("time_s:Q", title="engine time in seconds"),
                alt.Y("share:Q", title="KV blocks", stack=True).axis(format="%").scale(domain=[0, 1]),
                alt.Color("part:N", title=None, legend=alt.Legend(orient="bottom")).scale(
                    domain=list(MEMORY_PARTS)
                ),
                order="order:Q",
                tooltip=[
                    "part:N",
                    alt.Tooltip("time_s:Q", format=",.1f"),
                    alt.Tooltip("share:Q", format=".1%"),
                ],
            )
            .add_params(*params(strategies, load))
            .properties(width="container", height=HEIGHT // 2)
        )
        charts.append(Chart(f"memory-{index}", f"KV cache under {strategy}", bare_spec(area)))
    return charts


def _faded() -> Any:
    """Fade every strategy but the one that is highlighted, if one is."""
    return alt.condition("highlight === '' || datum.strategy === highlight", alt.value(1.0), alt.value(0.15))


def _dash(baseline: str) -> Any:
    """Draw the baseline dashed, so that it is recognized without its color."""
    return alt.condition(alt.datum.strategy == baseline, alt.value([6, 3]), alt.value([1, 0]))


def _ruler(
    base: alt.Chart,
    axis: alt.X | alt.Y,
    key: str,
    key_title: str,
    value: str,
    form: str,
    strategies: Sequence[str],
) -> alt.Chart:
    """Draw a line at the row nearest to the pointer; its tooltip shows all strategies at once."""
    nearest = alt.selection_point(
        name="nearest", fields=[key], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    ruler: alt.Chart = (
        base.transform_pivot("strategy", value=value, groupby=[key])
        .mark_rule()
        .encode(
            axis,
            opacity=alt.condition(nearest, alt.value(0.5), alt.value(0)),
            tooltip=[
                alt.Tooltip(f"{key}:Q", title=key_title),
                *(
                    alt.Tooltip(field=_escaped(s), type="quantitative", title=s, format=form)
                    for s in strategies
                ),
            ],
        )
        .add_params(nearest)
    )
    return ruler


def _escaped(field: str) -> str:
    """Escape the characters that Vega-Lite would read as a path in a field's name."""
    for char in "\\.[]":
        field = field.replace(char, "\\" + char)
    return field


def _layered(
    lines: alt.Chart, ruler: alt.Chart, strategies: Sequence[str], load: str | None
) -> dict[str, Any]:
    chart = alt.layer(lines, ruler).add_params(*params(strategies, load))
    return bare_spec(chart.properties(width="container", height=HEIGHT))


def bare_spec(chart: alt.LayerChart | alt.FacetChart | alt.Chart) -> dict[str, Any]:
    """Return the specification without Altair's own look, since the page's theme decides."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)
    return spec
