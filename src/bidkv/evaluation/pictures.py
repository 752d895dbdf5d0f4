"""Charts as files: a self-contained page or an image, by the file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import altair as alt

_SCALE = 2
"""Pixels of a PNG per pixel of the chart, for sharp text on dense screens."""


def save_chart(file: Path, chart: alt.VConcatChart, endings: Sequence[str] = (".html", ".png")) -> None:
    """Write a chart.

    Args:
        file: its ending decides the form.
        chart: what to write.
        endings: those that are allowed.

    Raises:
        ValueError: the file's name ends otherwise.
    """
    if file.suffix not in endings:
        raise ValueError(f"{file}: expected a name that ends in {' or '.join(endings)}")
    if file.suffix == ".html":
        chart.save(str(file), inline=True)
    else:
        chart.save(str(file), scale_factor=_SCALE if file.suffix == ".png" else 1)
