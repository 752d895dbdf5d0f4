"""The picture of a comparison: how far each figure moved, strategy by strategy."""

from __future__ import annotations

from typing import Any

import altair as alt

from bidkv.evaluation.comparison import Comparison

_COLORS = {"better": "#2a7f62", "worse": "#c0392b", "alike": "#8a8a8a"}


def comparison_chart(comparison: Comparison, a: str, b: str) -> alt.VConcatChart:
    """Return one panel a strategy; figures without a direction, or without a ratio, are left out.

    Args:
        comparison: what was compared.
        a: name of the first side, for titles.
        b: name of the second side.
    """
    panels = []
    for name, changes in comparison.changes.items():
        rows: list[dict[str, Any]] = [
            {
                "figure": change.figure.heading,
                "ratio": change.ratio,
                "low": change.ratio if change.low is None else change.low,
                "high": change.ratio if change.high is None else change.high,
                "side": {"b": "better", "a": "worse", "": "alike"}[change.better],
            }
            for change in changes
            if change.ratio is not None and change.figure.better is not None
        ]
        base = alt.Chart(alt.InlineData(values=rows))
        y = alt.Y("figure:N", sort=None, title=None)
        scale = alt.Scale(type="log", nice=False)
        color = alt.Color(
            "side:N",
            title=f"{b} is",
            scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())),
        )
        points = base.mark_point(filled=True, size=70).encode(
            alt.X("ratio:Q", scale=scale, title=f"{b} / {a}"), y, color
        )
        bars = base.mark_rule(strokeWidth=2).encode(
            alt.X("low:Q", scale=scale, title=f"{b} / {a}"), y, color, x2="high:Q"
        )
        one = alt.Chart(alt.InlineData(values=[{"ratio": 1.0}])).mark_rule(strokeDash=[4, 4])
        panels.append(
            alt.layer(one.encode(alt.X("ratio:Q", scale=scale)), bars, points).properties(
                width=460, title=name
            )
        )
    return alt.vconcat(*panels)
