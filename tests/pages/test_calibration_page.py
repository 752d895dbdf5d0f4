"""The calibration page in a real headless browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

RECORDED = Path(__file__).parent.parent / "data" / "h100" / "run_compiled.steps.csv"


def test_every_plot_is_drawn_without_a_complaint_or_a_connection(browser: Any, tmp_path: Path) -> None:
    calibrate = pytest.importorskip("bidkv.calibration", reason="needs the [sim] extra")
    page_module = pytest.importorskip("bidkv.calibration.page", reason="needs the [report] extra")
    from bidkv.profiles import load_profile

    profile, file = load_profile("h100-llama3.1-8b").for_engine(32, 2048), tmp_path / "page.html"
    report = "a </pre><b>report</b>"
    page_module.write_page(file, report, profile, {"a run": (profile, calibrate.read_step_log(RECORDED))})

    page = browser.new_page()
    complaints: list[str] = []
    connections: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: connections.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("#plots canvas, #plots svg")
    assert complaints == []
    assert connections == [file.as_uri()]
    assert page.locator("pre").inner_text() == report
    drawn = page.locator("#plots canvas, #plots svg").first.bounding_box()
    assert drawn["width"] > 600
    assert drawn["height"] > 500
    page.close()
