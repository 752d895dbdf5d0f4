"""The page's colors tell strategies apart, for readers who see red and green alike as well."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import pytest

CSS = (Path(__file__).parents[2] / "src/bidkv/report/templates/page.css").read_text(encoding="utf-8")

# Full protanopia and deuteranopia on linear RGB (Machado, Oliveira, Fernandes 2009, severity 1.0).
VISION = {
    "full": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}
LEAST_DISTANCE = 0.12
"""Least distance of two colors in OKLab, where white and black are 1 apart."""


def theme(selector: str) -> dict[str, str]:
    block = re.search(re.escape(selector) + r" \{(.*?)\n\}", CSS, re.DOTALL)
    assert block is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block[1]))


def linear(color: str) -> tuple[float, ...]:
    values = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)


def luminance(color: str) -> float:
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def oklab(color: str, vision: str) -> tuple[float, float, float]:
    seen = linear(color)
    r, g, b = (
        min(max(sum(a * c for a, c in zip(row, seen, strict=True)), 0.0), 1.0) for row in VISION[vision]
    )
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


@pytest.mark.parametrize("selector", [":root", ':root[data-theme="dark"]'])
@pytest.mark.parametrize("vision", VISION)
def test_ten_strategies_are_told_apart(selector: str, vision: str) -> None:
    colors = [theme(selector)[f"c{index}"] for index in range(10)]
    distances = {(a, b): math.dist(oklab(a, vision), oklab(b, vision)) for a, b in combinations(colors, 2)}
    closest = min(distances, key=lambda pair: distances[pair])
    assert distances[closest] >= LEAST_DISTANCE, closest


@pytest.mark.parametrize("selector", [":root", ':root[data-theme="dark"]'])
def test_every_color_stands_out_from_its_background(selector: str) -> None:
    colors = theme(selector)
    background = luminance(colors["card"])
    for name in (*(f"c{index}" for index in range(10)), "better", "worse"):
        light, dark = sorted((background, luminance(colors[name])), reverse=True)
        # The contrast that WCAG 2.2 asks of graphics (1.4.11).
        assert (light + 0.05) / (dark + 0.05) >= 3.0, name
