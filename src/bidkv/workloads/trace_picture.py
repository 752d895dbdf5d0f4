"""A picture of what a trace holds, as SVG: rate over time, and the laws of its lengths and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log1p

from bidkv.protocol.texts import plain_number
from bidkv.workloads.spread import Spread
from bidkv.workloads.trace_summary import RateOverTime, RequestSummary, SessionSummary

_WIDTH, _HEIGHT, _MARGIN = 640, 150, 44
_QUANTILES = 100


def draw_summary(summary: RequestSummary | SessionSummary) -> str:
    """Return an SVG page with one panel for the rate and one for every law."""
    panels = []
    if isinstance(summary, RequestSummary):
        panels.append(_rate_panel(summary.rate))
        laws = [("prompt tokens", summary.prompts), ("output tokens", summary.outputs)]
    else:
        laws = [
            ("turns per session", summary.turns),
            ("tokens of the first prompt", summary.first_tokens),
            ("new tokens of a later turn", summary.new_tokens),
            ("output tokens", summary.outputs),
            ("gap of tools, s", summary.tool_gaps_s),
            ("gap of people, s", summary.human_gaps_s),
        ]
    panels += [_law_panel(name, law) for name, law in laws if law.count]
    height = len(panels) * (_HEIGHT + _MARGIN) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 2 * _MARGIN}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, panel in enumerate(panels):
        parts.append(
            f'<g transform="translate({_MARGIN},{_MARGIN + place * (_HEIGHT + _MARGIN)})">{panel}</g>'
        )
    return "".join([*parts, "</svg>\n"])


def _rate_panel(rate: RateOverTime) -> str:
    most = max(rate.counts)
    width = _WIDTH / len(rate.counts)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{_HEIGHT * (1 - count / most):.1f}" width="{width:.2f}" '
        f'height="{_HEIGHT * count / most:.1f}" fill="#4c78a8"/>'
        for place, count in enumerate(rate.counts)
    )
    span_s = len(rate.counts) * rate.width_s
    return _frame(
        "arrivals a second over time",
        bars,
        ("0 s", f"{plain_number(span_s, 4)} s"),
        plain_number(most / rate.width_s, 3),
    )


def _law_panel(name: str, law: Spread) -> str:
    """The share of values below each quantile, on an axis that grows as the logarithm does."""
    right = log1p(law.largest) or 1.0
    points = [
        (log1p(law.quantile(k / _QUANTILES)) / right * _WIDTH, _HEIGHT * (1 - k / _QUANTILES))
        for k in range(_QUANTILES + 1)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    curve = f'<polyline points="{line}" fill="none" stroke="#e45756" stroke-width="1.5"/>'
    middle = log1p(law.quantile(0.5)) / right * _WIDTH
    mark = (
        f'<path d="M{middle:.1f},0V{_HEIGHT}" stroke="#bbb" stroke-dasharray="3"/>'
        f'<text x="{middle + 3:.1f}" y="10" fill="#666">p50 {plain_number(law.quantile(0.5), 4)}</text>'
    )
    return _frame(
        f"{name}: share below, logarithmic", mark + curve, ("0", plain_number(law.largest, 4)), "100 %"
    )


def _frame(title: str, content: str, ends: Sequence[str], top: str) -> str:
    return (
        f'<text y="-8" font-weight="bold">{escape(title)}</text>{content}'
        f'<path d="M0,0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="#333"/>'
        f'<text x="0" y="{_HEIGHT + 14}">{escape(ends[0])}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{escape(ends[1])}</text>'
        f'<text x="-4" y="10" text-anchor="end">{escape(top)}</text>'
    )
