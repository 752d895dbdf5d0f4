"""The Pareto picture: mean against p99, and mean against the longest wait, one column per memory size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from bidkv.evaluation.pictures import save_chart
from bidkv.policy import resolve
from bidkv.tournament.plan import BASELINE, RECOMMENDED
from bidkv.tournament.standings import Standings

_AGAINST = {"p99_e2e_s": "p99 latency", "longest_wait_s": "longest wait"}
_SIDE = 260
_FURTHEST = 3.2
"""A policy this many times worse than the baseline is named but not drawn: it would squeeze the others."""
_NAME_DY = {False: -6, True: 12}
"""Vertical offset of a name, by clairvoyance: the gate that knows all lengths and `fair` nearly meet."""
_KINDS = {"this project's": "#d62728", "knows true lengths": "#2ca02c", "others": "#7f7f7f"}


def rows(standings: Standings) -> list[dict[str, Any]]:
    """Return one row per policy, size and figure of the vertical axis, as ratios to the baseline.

    `best` marks the policies that no other one beats in both figures. Clairvoyant ones do not compete.
    """
    found = []
    for size in standings.plan.sizes:
        for metric, title in _AGAINST.items():
            points = [
                {
                    "policy": policy,
                    "size": size,
                    "against": title,
                    "mean": standings.ratio(policy, "mean_e2e_s", size=size).value,
                    "ratio": standings.ratio(policy, metric, size=size).value,
                    "clairvoyant": resolve(policy).clairvoyant,
                }
                for policy in standings.plan.policies
            ]
            rivals = [point for point in points if not point["clairvoyant"]]
            for point in points:
                beaten = any(_beats(rival, point) for rival in rivals)
                found.append({**point, "best": not point["clairvoyant"] and not beaten})
    return found


def _beats(rival: dict[str, Any], point: dict[str, Any]) -> bool:
    first, second = (rival["mean"], rival["ratio"]), (point["mean"], point["ratio"])
    return bool(first != second and first[0] <= second[0] and first[1] <= second[1])


def pareto_chart(standings: Standings) -> alt.VConcatChart:
    """Return the picture as an Altair chart."""
    table = rows(standings)
    panels = [
        alt.hconcat(
            *(
                _panel([row for row in table if (row["size"], row["against"]) == (size, title)], size, title)
                for size in standings.plan.sizes
            )
        )
        for title in _AGAINST.values()
    ]
    chart: alt.VConcatChart = alt.vconcat(
        *panels,
        title=alt.Title(
            f"Ratios to {BASELINE}: lower and further left is better; the line joins the best",
            subtitle=_left_out(table),
        ),
    )
    return chart


def _left_out(table: list[dict[str, Any]]) -> str:
    """Name the policies that are too far off to be drawn."""
    far = sorted({row["policy"] for row in table if not _is_near(row)})
    if not far:
        return ""
    return f"Where more than {_FURTHEST:g} times as high, not drawn: {', '.join(far)}"


def _is_near(row: dict[str, Any]) -> bool:
    return bool(max(row["mean"], row["ratio"]) <= _FURTHEST)


def _panel(table: list[dict[str, Any]], size: str, title: str) -> alt.LayerChart | alt.FacetChart:
    near = [{**row, "kind": _kind(row)} for row in table if _is_near(row)]
    base = alt.Chart(alt.InlineData(values=near)).encode(
        alt.X("mean:Q", title="mean latency").scale(type="log", nice=False, padding=24),
        alt.Y("ratio:Q", title=title).scale(type="log", nice=False, padding=14),
    )
    front = (
        base.transform_filter(alt.datum.best)
        .mark_line(color="gray", strokeDash=[4, 3])
        .encode(order="mean:Q")
    )
    points = base.mark_point(filled=True, size=60, opacity=0.8).encode(
        color=alt.Color("kind:N", title=None).scale(domain=list(_KINDS), range=list(_KINDS.values())),
        tooltip=["policy:N", alt.Tooltip("mean:Q", format=".3f"), alt.Tooltip("ratio:Q", format=".3f")],
    )
    named = [row for row in near if row["kind"] != "others" or row["best"] or row["policy"] == BASELINE]
    names = [
        alt.Chart(alt.InlineData(values=[row for row in named if row["clairvoyant"] is knows]))
        .mark_text(align="left", dx=6, dy=dy, fontSize=10)
        .encode(x="mean:Q", y="ratio:Q", text="policy:N")
        for knows, dy in _NAME_DY.items()
    ]
    return alt.layer(front, points, *names).properties(width=_SIDE, height=_SIDE, title=size)


def _kind(row: dict[str, Any]) -> str:
    ours, knowing, others = _KINDS
    if row["clairvoyant"]:
        return knowing
    return ours if row["policy"] in RECOMMENDED else others


def write_picture(file: Path, standings: Standings) -> None:
    """Write the picture as a self-contained page (`.html`) or an image (`.png`), told by the file's name.

    Raises:
        ValueError: the name ends otherwise.
    """
    save_chart(file, pareto_chart(standings))
