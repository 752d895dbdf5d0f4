"""The picture of a plan: one replica from idle to its limit, and where the load stands."""

from __future__ import annotations

from typing import Any

import altair as alt

from bidkv.planning.capacity import CapacityPlan
from bidkv.planning.demand import Demand
from bidkv.profiles import StepTimeProfile
from bidkv.stability import ReplicaModel, ReplicaShape

_POINTS = 40
_WIDTH, _HEIGHT = 460, 130


def load_curve(
    demand: Demand, shape: ReplicaShape, profile: StepTimeProfile, cached_prompt_share: float = 0.0
) -> list[dict[str, Any]]:
    """Return rows (rate, figure, value) of one replica at rates up to 99 % of what it sustains.

    Args:
        demand: the lengths of its requests.
        shape: memory and limits of the replica.
        profile: its step times.
        cached_prompt_share: share of prompt tokens found in the prefix cache, from 0 to 1.

    Returns:
        Rates in requests a second; the figures' names say their units.
    """
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s
    model = ReplicaModel(demand.law, shape, step_time, cached_prompt_share=cached_prompt_share)
    rows = []
    for index in range(1, _POINTS + 1):
        point = model.at(0.99 * model.sustainable_rps * index / _POINTS)
        if point is not None:
            rows += [
                {"rate": point.arrivals_rps, "figure": name, "value": value}
                for name, value in (
                    ("KV in use, %", 100.0 * point.memory_fill),
                    ("ms a token", 1e3 * point.answer_tpot_s),
                    ("first token p99, s", point.ttft_p99_high_s),
                )
            ]
    return rows


def plan_chart(plan: CapacityPlan, rows: list[dict[str, Any]]) -> alt.VConcatChart:
    """Return the picture as an Altair chart: a panel for each figure, over the rate of one replica.

    Args:
        plan: what it marks: the sustainable rate and its interval, the published formula, the load.
        rows: of :func:`load_curve`.
    """
    service = plan.service
    edge = max(service.high_rps, 1.02 * service.plain_rps)
    x = alt.X("rate:Q", title="requests per second on one replica").scale(domain=[0.0, edge], nice=False)
    band = alt.Chart(alt.InlineData(values=[{"low": service.low_rps, "high": service.high_rps}])).mark_rect(
        color="#e8c547", opacity=0.45
    )
    marks = [{"rate": service.sustainable_rps, "what": "sustainable"}]
    marks.append({"rate": service.plain_rps, "what": "published formula"})
    if plan.replicas is not None:
        marks.append({"rate": plan.arrivals_rps / plan.replicas, "what": "load of each replica"})
    panels = []
    for name in dict.fromkeys(row["figure"] for row in rows):
        values = [row for row in rows if row["figure"] == name]
        line = alt.Chart(alt.InlineData(values=values)).mark_line(strokeWidth=2)
        scale = alt.Scale(type="log" if name.startswith("first") else "linear", zero=False)
        rules = alt.Chart(alt.InlineData(values=marks)).mark_rule(strokeWidth=1.5)
        panels.append(
            alt.layer(
                band.encode(alt.X("low:Q"), x2="high:Q"),
                rules.encode(
                    x,
                    color=alt.Color("what:N", title=None, legend=alt.Legend(orient="bottom")),
                    strokeDash=alt.StrokeDash("what:N", title=None),
                ),
                line.encode(x, alt.Y("value:Q", title=name, scale=scale)),
            ).properties(width=_WIDTH, height=_HEIGHT)
        )
    chart: alt.VConcatChart = alt.vconcat(
        *panels, title=f"{plan.source}: limited by {service.limit}, band = uncertain"
    )
    return chart
