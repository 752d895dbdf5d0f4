"""The documentation as a site: it builds, reads without a network, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="needs the [docs] extra")
pytest.importorskip("typer", reason="needs the [cli] extra")

from bidkv.cli.app import COMMANDS
from bidkv.policy import available

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """Collects what a page links to and loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in ("script", "img") and given.get("src"):
            self.loaded.append(str(given["src"]))
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(str(given["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {page.stem for page in site.rglob("*.html")}


def leaves_site(page: Path, path: str, site: Path) -> bool:
    """Whether a relative link leads out of the site, to a file of the repository beside docs/."""
    return not (page.parent / unquote(path)).resolve().is_relative_to(site.resolve())


def test_links_lead_somewhere_on_the_site(site: Path) -> None:
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in site.resolve().rglob("*.html")}
    for page, parsed in pages.items():
        if page.name == "404.html":
            continue  # its links are absolute, for a server
        for link in parsed.links:
            parts = urlsplit(link)
            # Links to the repository's files beside docs/ are checked where those are.
            if parts.scheme or leaves_site(page, parts.path, site) or link.startswith("#"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{page.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert [url for url in Links(page.read_text(encoding="utf-8")).loaded if urlsplit(url).netloc] == []


def test_the_commands_are_written_from_the_code(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/cli.html").read_text(encoding="utf-8"))
    for name in COMMANDS:
        assert f"bidkv {name} " in text
    assert "--num-gpu-blocks" in text
    assert "Examples:" in text


def test_the_api_shows_what_a_policy_may_ask(site: Path) -> None:
    text = (site / "reference/api.html").read_text(encoding="utf-8")
    for name in ("select_victim", "select_next", "reserve_blocks", "freed_blocks", "on_preempt"):
        assert name in text


def test_pages_name_policies_that_exist() -> None:
    pages = (
        "guide/tutorial.md",
        "guide/operations.md",
        "guide/comparison.md",
        "index.md",
        "reference/decision-log.md",
    )
    for page in pages:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for names in re.findall(r"(?:--strategy |BIDKV_STRATEGY=)([\w,-]+)", text):
            assert set(names.split(",")) <= set(available()), page
