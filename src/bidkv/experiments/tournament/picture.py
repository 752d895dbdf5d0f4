"""The Pareto picture: mean against p99, and mean against the longest wait, one column a memory size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from bidkv.experiments.tournament.plan import BASELINE
from bidkv.experiments.tournament.standings import Standings
from bidkv.policy import resolve

_AGAINST = {"p99_e2e_s": "p99 latency", "longest_wait_s": "longest wait"}
_SIDE = 230


def rows(standings: Standings) -> list[dict[str, Any]]:
    """Return one row a policy, size and figure on the vertical axis; all figures are ratios to the baseline.

    `best` marks policies that no other one beats in both figures; clairvoyant ones do not compete.
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
        *panels, title=f"Ratios to {BASELINE}: lower and further left is better; the line joins the best"
    )
    return chart


def _panel(table: list[dict[str, Any]], size: str, title: str) -> alt.LayerChart | alt.FacetChart:
    base = alt.Chart(alt.InlineData(values=table)).encode(
        alt.X("mean:Q", title="mean latency").scale(type="log", nice=False, padding=12),
        alt.Y("ratio:Q", title=title).scale(type="log", nice=False, padding=12),
    )
    front = (
        base.transform_filter(alt.datum.best)
        .mark_line(color="gray", strokeDash=[4, 3])
        .encode(order="mean:Q")
    )
    points = base.mark_point(filled=True, size=70).encode(
        color=alt.Color("policy:N").scale(scheme="tableau20"),
        shape=alt.Shape("clairvoyant:N").scale(domain=[False, True], range=["circle", "triangle-up"]),
        tooltip=["policy:N", alt.Tooltip("mean:Q", format=".3f"), alt.Tooltip("ratio:Q", format=".3f")],
    )
    return alt.layer(front, points).properties(width=_SIDE, height=_SIDE, title=size)


def write_picture(file: Path, standings: Standings) -> None:
    """Write the picture as a self-contained page (`.html`) or an image (`.png`), told by the file's name.

    Raises:
        ValueError: the name ends otherwise.
    """
    chart = pareto_chart(standings)
    if file.suffix == ".html":
        chart.save(file, inline=True)
    elif file.suffix == ".png":
        chart.save(file, scale_factor=2)
    else:
        raise ValueError(f"{file}: expected a name that ends in .html or .png")
