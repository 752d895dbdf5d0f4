"""The calibration report as one self-contained HTML page with plots; needs the ``report`` extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from bidkv._version import __version__
from bidkv.calibration.fitting import predict
from bidkv.calibration.step_log import StepLog
from bidkv.profiles import StepTimeProfile
from bidkv.results.files import write_output

_MOST_POINTS = 3000
"""Points drawn of one log; more make the page slow and show nothing new."""

_WIDTH, _HEIGHT = 430, 300
_LINE_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
_LINE_CONTEXT_TOKENS = (100, 500)  # a request

Judged = tuple[StepTimeProfile, StepLog]
"""A log, and the profile as it stands for the engine that the log comes from."""


def write_page(path: Path, report: str, profile: StepTimeProfile, logs: Mapping[str, Judged]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        report: the text report, shown as it is.
        profile: the profile that is judged.
        logs: what it is judged on, by what the legend calls it; at least one.

    Raises:
        OSError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("bidkv.calibration"), autoescape=True, undefined=StrictUndefined
    )
    points = [point for name, judged in logs.items() for point in _points(name, *judged)]
    page = environment.get_template("page.html.j2").render(
        version=__version__,
        profile=profile,
        report=report,
        plots=_plots(points, _lines(profile)).to_html(fullhtml=False, inline=True, output_div="plots"),
    )
    write_output(path, page, "backslashreplace")


def _points(name: str, profile: StepTimeProfile, log: StepLog) -> list[dict[str, Any]]:
    chosen = np.unique(np.linspace(0, len(log) - 1, min(len(log), _MOST_POINTS)).astype(np.int64))
    part = log.where(np.isin(np.arange(len(log)), chosen))
    columns = (part.step_s, predict(profile, part), part.tokens, part.prefill, part.decode)
    return [
        {
            "log": name,
            "regime": "decode" if not prefill else "mixed" if decode else "prefill",
            "recorded_ms": round(step_s * 1e3, 3),
            "predicted_ms": round(predicted_s * 1e3, 3),
            "error": round(predicted_s / step_s - 1.0, 4),
            "tokens": tokens,
            "decode": decode,
        }
        for step_s, predicted_s, tokens, prefill, decode in zip(*(c.tolist() for c in columns), strict=True)
        if tokens
    ]


def _lines(profile: StepTimeProfile) -> list[dict[str, Any]]:
    return [
        {
            "decode": batch,
            "predicted_ms": profile.step_s(0, 0.0, batch, batch * context) * 1e3,
            "context": f"{context} tokens each",
        }
        for context in _LINE_CONTEXT_TOKENS
        for batch in _LINE_BATCHES
    ]


def _plots(points: list[dict[str, Any]], lines: list[dict[str, Any]]) -> alt.VConcatChart:
    base = alt.Chart(alt.InlineData(values=points)).properties(width=_WIDTH, height=_HEIGHT)
    regime = alt.Color("regime:N", title="step").scale(domain=["decode", "prefill", "mixed"])
    shape = alt.Shape("log:N", title="steps")
    log_scale = alt.Scale(type="log", nice=False)
    details = ["log:N", "regime:N", "tokens:Q", "decode:Q", "recorded_ms:Q", "predicted_ms:Q"]
    agreement = base.mark_point(size=14, opacity=0.5).encode(
        alt.X("recorded_ms:Q", title="recorded, ms", scale=log_scale),
        alt.Y("predicted_ms:Q", title="predicted, ms", scale=log_scale),
        regime,
        shape,
        tooltip=details,
    )
    low, high = min(p["recorded_ms"] for p in points), max(p["recorded_ms"] for p in points)
    ends = alt.InlineData(values=[{"at": low}, {"at": high}])
    equal = alt.Chart(ends).mark_line(color="gray", strokeDash=[4, 3]).encode(x="at:Q", y="at:Q")
    error = base.mark_point(size=14, opacity=0.5).encode(
        alt.X("tokens:Q", title="tokens scheduled", scale=log_scale),
        alt.Y("error:Q", title="predicted / recorded - 1").axis(format="%"),
        regime,
        shape,
        tooltip=details,
    )
    decode = (
        base.transform_filter(alt.datum.regime == "decode")
        .mark_point(size=10, opacity=0.35, color="gray")
        .encode(
            alt.X("decode:Q", title="requests that decode"),
            alt.Y("recorded_ms:Q", title="decode step, ms", scale=alt.Scale(zero=False)),
            shape,
            tooltip=details,
        )
    )
    predicted = alt.Chart(alt.InlineData(values=lines)).mark_line()
    model = predicted.encode(
        x="decode:Q", y="predicted_ms:Q", strokeDash=alt.StrokeDash("context:N", title="predicted at")
    )
    worst = base.transform_calculate(absolute="abs(datum.error)").transform_window(
        rank="cume_dist()", sort=[alt.SortField("absolute")], groupby=["regime", "log"]
    )
    spread = worst.mark_line().encode(
        alt.X("absolute:Q", title="absolute error").axis(format="%").scale(domain=[0, 0.4], clamp=True),
        alt.Y("rank:Q", title="share of steps").axis(format="%"),
        regime,
        strokeDash=alt.StrokeDash("log:N", title="steps"),
        order="rank:Q",
    )
    top = alt.hconcat(
        (equal + agreement).properties(title="Agreement"), error.properties(title="Error by size")
    )
    bottom = alt.hconcat(
        (decode + model).properties(title="Decode batches"), spread.properties(title="Error distribution")
    )
    plots: alt.VConcatChart = alt.vconcat(top, bottom.resolve_scale(strokeDash="independent"))
    return plots.properties(config={"legend": {"orient": "top"}})
