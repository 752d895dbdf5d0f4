"""Charts as files: a self-contained page or an image, by the file's name."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bidkv.results.files import output_file, write_output

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
    if file.suffix == ".png":
        image = io.BytesIO()
        chart.save(image, format="png", scale_factor=_SCALE)
        with output_file(file) as opened:
            opened.write(image.getvalue())
        return
    text = io.StringIO()
    if file.suffix == ".html":
        chart.save(text, format="html", inline=True)
    else:
        chart.save(text, format="svg")
    write_output(file, text.getvalue())
