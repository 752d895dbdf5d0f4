"""A page in a browser, and all it complained about or asked the network for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WINDOWS = [(1100, "light"), (1100, "dark"), (390, "light"), (390, "dark")]
"""Width in pixels and color scheme: a desktop's and a phone's."""


class Opened:
    """A page in its own browser context, and all it complained about or asked the network for."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(f"html[data-drawn={scheme}]")

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def color_of_first_line(self) -> str:
        return str(self.page.locator("#ttft svg .mark-line path").first.get_attribute("stroke"))


@contextmanager
def opening(browser: Any, file: Path, width: int, scheme: str) -> Iterator[Opened]:
    """Open a page in a browser context of its own."""
    one = Opened(browser, file, width, scheme)
    try:
        yield one
    finally:
        one.context.close()
