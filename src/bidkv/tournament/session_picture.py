"""The picture of a tournament of sessions: how each policy fares at every load, one row per machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from bidkv.evaluation.pictures import save_chart
from bidkv.tournament.plan import BASELINE
from bidkv.tournament.session_plan import Mode
from bidkv.tournament.session_standings import SessionStandings

_PANELS: tuple[tuple[Mode, str, str], ...] = (
    ("open", "completion_mean_s", "session completion, mean"),
    ("open", "completion_p99_s", "session completion, p99"),
    ("closed", "turns_per_s", "turns per second"),
)
_WIDTH, _HEIGHT = 260, 220


def session_rows(standings: SessionStandings) -> list[dict[str, Any]]:
    """Return one row per policy, machine, figure and level: a ratio to the baseline and its interval."""
    rows = []
    for machine in standings.plan.machines:
        for mode, metric, title in _PANELS:
            levels = standings.plan.loads if mode == "open" else standings.plan.levels
            for policy in standings.plan.policies:
                for level in levels:
                    ratio = standings.ratio(policy, metric, mode=mode, machine=machine, levels=[level])
                    if ratio is not None:
                        rows.append(
                            {
                                "machine": machine,
                                "figure": title,
                                "policy": policy,
                                "level": level,
                                "ratio": ratio.value,
                                "low": ratio.value if ratio.low is None else ratio.low,
                                "high": ratio.value if ratio.high is None else ratio.high,
                            }
                        )
    return rows


def session_chart(standings: SessionStandings) -> alt.VConcatChart:
    """Return the picture as an Altair chart."""
    rows = session_rows(standings)
    lines = []
    for machine in standings.plan.machines:
        panels = []
        for mode, _, title in _PANELS:
            values = [row for row in rows if (row["machine"], row["figure"]) == (machine, title)]
            axis = "share of the knee" if mode == "open" else "multiple of the resident number"
            base = alt.Chart(alt.InlineData(values=values)).encode(
                alt.X("level:Q", title=axis).scale(zero=False),
                alt.Color("policy:N", title=None).scale(domain=list(standings.plan.policies)),
            )
            curves = base.mark_line(point=True).encode(
                alt.Y("ratio:Q", title=title).scale(type="log", nice=False, padding=10),
                strokeDash=alt.condition(alt.datum.policy == BASELINE, alt.value([4, 3]), alt.value([1, 0])),
                tooltip=["policy:N", "level:Q", alt.Tooltip("ratio:Q", format=".3f")],
            )
            band = base.mark_area(opacity=0.12).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
            panels.append(alt.layer(band, curves).properties(width=_WIDTH, height=_HEIGHT, title=machine))
        lines.append(alt.hconcat(*panels))
    chart: alt.VConcatChart = alt.vconcat(
        *lines,
        title=f"Ratios to {BASELINE}; completion: lower is better, turns per second: higher is better",
    )
    return chart


def write_session_picture(file: Path, standings: SessionStandings) -> None:
    """Write the picture as a self-contained page (`.html`) or an image (`.png`), by the file's name.

    Raises:
        ValueError: the name ends otherwise.
    """
    save_chart(file, session_chart(standings))
