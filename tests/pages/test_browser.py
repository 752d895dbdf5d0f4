"""The report page in a real headless browser: what a reader sees, clicks and types."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.pages.opened import WINDOWS, Opened, opening

from bidkv.results import RunResult

pytestmark = pytest.mark.browser

LINE_CHARTS = ("ttft", "e2e", "kv", "preemptions", "queue")


@pytest.fixture(params=WINDOWS, ids=str)
def opened(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Opened]:
    with opening(browser, page_file, *request.param) as one:
        yield one


@pytest.fixture
def wide(browser: Any, page_file: Path) -> Iterator[Opened]:
    with opening(browser, page_file, *WINDOWS[0]) as one:
        yield one


def test_every_plot_is_drawn_without_a_complaint_or_a_connection(
    opened: Opened, runs: list[RunResult], page_file: Path
) -> None:
    for chart in LINE_CHARTS:
        assert opened.count(f"#{chart} svg .mark-line path") == len(runs), chart
    assert opened.count("#tax svg .mark-rect path") == len(runs)
    assert opened.complaints == []
    assert opened.requests == [page_file.as_uri()]


def test_nothing_overflows_the_width(opened: Opened) -> None:
    inside, outside = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert inside <= outside
    for chart in (*LINE_CHARTS, "tax"):
        drawn, room = opened.page.evaluate(
            "id => { const e = document.getElementById(id);"
            " return [e.querySelector('svg').getBoundingClientRect().width, e.clientWidth]; }",
            chart,
        )
        assert 0 < drawn <= room


def test_the_theme_toggles_by_keyboard_and_redraws_the_plots(wide: Opened) -> None:
    page = wide.page
    before = (wide.color_of_first_line(), page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.keyboard.press("Tab")  # the link that skips to the plots
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-drawn=dark]")
    after = (wide.color_of_first_line(), page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert page.locator("#theme").text_content() == "Switch to light theme"
    assert before[0] != after[0]
    assert before[1] != after[1]
    page.keyboard.press("Space")
    page.wait_for_selector("html[data-drawn=light]")
    assert wide.color_of_first_line() == before[0]
    assert wide.complaints == []


def test_a_strategy_is_hidden_and_shown_by_keyboard_in_every_plot(
    wide: Opened, runs: list[RunResult]
) -> None:
    page = wide.page
    chip = page.locator(".chip").nth(5)
    chip.focus()
    page.keyboard.press("Space")
    assert chip.get_attribute("aria-pressed") == "false"
    page.wait_for_function(
        "n => document.querySelectorAll('#tax svg .mark-rect path').length === n", arg=len(runs) - 1
    )
    for chart in LINE_CHARTS:
        assert wide.count(f"#{chart} svg .mark-line path") == len(runs) - 1, chart
    page.keyboard.press("Space")
    page.wait_for_function(
        "n => document.querySelectorAll('#tax svg .mark-rect path').length === n", arg=len(runs)
    )
    assert wide.complaints == []


def test_pointing_at_a_curve_reads_all_strategies(wide: Opened, runs: list[RunResult]) -> None:
    wide.page.locator("#ttft").scroll_into_view_if_needed()
    box = wide.page.locator("#ttft svg").bounding_box()
    wide.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wide.page.mouse.move(box["x"] + box["width"] / 2 + 5, box["y"] + box["height"] / 2 + 3)
    wide.page.wait_for_selector("#vg-tooltip-element.visible")
    text = wide.page.locator("#vg-tooltip-element").inner_text()
    assert [run.strategy for run in runs if run.strategy not in text] == []
    assert "undefined" not in text
    assert "NaN" not in text


@pytest.mark.parametrize(
    ("name", "column"), [("latency", "seconds"), ("timeline", "kv_use"), ("tax", "recompute_tax")]
)
def test_each_data_set_is_downloaded_as_csv(
    wide: Opened, runs: list[RunResult], name: str, column: str
) -> None:
    with wide.page.expect_download() as waiting:
        wide.page.locator(f"[data-download={name}]").click()
    assert waiting.value.suggested_filename == f"bidkv-{name}.csv"
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8"))))
    assert {row["strategy"] for row in rows} == {run.strategy for run in runs}
    assert all(float(row[column]) >= 0.0 for row in rows)


def test_the_table_scrolls_inside_itself_by_keyboard_on_a_phone(browser: Any, page_file: Path) -> None:
    phone = Opened(browser, page_file, 390, "light")
    region = phone.page.locator(".scroll")
    region.focus()
    phone.page.keyboard.press("ArrowRight")
    phone.page.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
    assert phone.page.evaluate("window.scrollX") == 0
    phone.context.close()


def test_text_from_outside_stays_text(wide: Opened) -> None:
    assert wide.count("b") == 0
    wide.page.locator("summary").click()
    assert "made </script><b>up" in wide.page.locator("dl").inner_text()
