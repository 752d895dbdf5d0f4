"""The page of an experiment in a real headless browser: drawn, steered by keyboard, downloadable, small."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.pages.opened import WINDOWS, Opened, opening

pytestmark = pytest.mark.browser

LINES = ("ttft", "e2e", "kv", "preemptions", "queue", "sizes")
CHARTS = (*LINES, "heat", "tax", "jain", "dots")
FIRST, SECOND = "mixed at 2/s", 'made </script><b>"up" at 3.5/s'


@pytest.fixture(params=WINDOWS, ids=str)
def opened(request: pytest.FixtureRequest, browser: Any, experiment_file: Path) -> Iterator[Opened]:
    with opening(browser, experiment_file, *request.param) as one:
        yield one


@pytest.fixture
def wide(browser: Any, experiment_file: Path) -> Iterator[Opened]:
    with opening(browser, experiment_file, *WINDOWS[0]) as one:
        yield one


def heat_texts(opened: Opened) -> list[str]:
    return list(opened.page.locator("#heat svg .mark-text text").all_text_contents())


def wait_for_other_heat(opened: Opened, before: list[str]) -> None:
    opened.page.wait_for_function(
        "old => [...document.querySelectorAll('#heat svg .mark-text text')]"
        ".map(e => e.textContent).join() !== old",
        arg=",".join(before),
    )


def test_every_plot_is_drawn_without_a_complaint_or_a_connection(
    opened: Opened, experiment_file: Path
) -> None:
    for chart in LINES:
        assert opened.count(f"#{chart} svg .mark-line path") == 3, chart
    assert opened.count("#heat svg .mark-rect path") == 4  # two loads, two strategies against the baseline
    assert opened.count("#tax svg .mark-rect path") == 3
    assert opened.count("#jain svg .mark-rect path") == 3
    assert opened.count("#dots svg .mark-symbol path") > 100
    assert opened.complaints == []
    assert opened.requests == [experiment_file.as_uri()]


def test_nothing_overflows_the_width(opened: Opened) -> None:
    inside, outside = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert inside <= outside
    for chart in CHARTS:
        drawn, room = opened.page.evaluate(
            "id => { const e = document.getElementById(id);"
            " return [e.querySelector('svg').getBoundingClientRect().width, e.clientWidth]; }",
            chart,
        )
        assert 0 < drawn <= room, chart


def test_load_and_figure_are_chosen_by_keyboard(wide: Opened) -> None:
    page = wide.page
    before = page.locator("#e2e svg .mark-line path").first.get_attribute("d")
    load = page.locator("select[data-signal=load]")
    assert load.evaluate("e => e.value") == FIRST
    load.focus()
    page.keyboard.press("ArrowDown")
    assert load.evaluate("e => e.value") == SECOND
    page.wait_for_function(
        "old => document.querySelector('#e2e svg .mark-line path').getAttribute('d') !== old", arg=before
    )
    heat = heat_texts(wide)
    figure = page.locator("select[data-signal=figure]")
    figure.focus()
    page.keyboard.press("ArrowDown")
    assert figure.evaluate("e => e.value") == "p99 end-to-end latency"
    wait_for_other_heat(wide, heat)
    assert wide.complaints == []


def test_a_choice_survives_the_other_theme(wide: Opened) -> None:
    page = wide.page
    page.locator("select[data-signal=figure]").select_option("recompute tax")
    page.wait_for_function(
        "document.querySelector('#heat svg .mark-text text').textContent.includes('pt') || true"
    )
    chosen = heat_texts(wide)
    page.locator("#theme").click()
    page.wait_for_selector("html[data-drawn=dark]")
    assert heat_texts(wide) == chosen


def test_a_hidden_strategy_leaves_every_plot(wide: Opened) -> None:
    page = wide.page
    chip = page.locator(".chip").nth(2)
    chip.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('#tax svg .mark-rect path').length === 2")
    for chart in LINES:
        assert wide.count(f"#{chart} svg .mark-line path") == 2, chart
    assert wide.count("#heat svg .mark-rect path") == 2


@pytest.mark.parametrize(
    ("dataset", "rows"),
    [("figures", 12), ("verdicts", 28), ("tax", 6), ("fairness", 24), ("requests", 480), ("latency", None)],
)
def test_every_plots_data_can_be_downloaded(wide: Opened, dataset: str, rows: int | None) -> None:
    with wide.page.expect_download() as waiting:
        wide.page.locator(f"[data-download={dataset}]").first.click()
    text = Path(waiting.value.path()).read_text()
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == rows if rows is not None else found
    assert {row["load"] for row in found} == {FIRST, SECOND}


def test_what_a_name_holds_is_text(wide: Opened) -> None:
    assert wide.count("main b") == 0
    assert "made </script><b>" in wide.page.locator("table").inner_text()
