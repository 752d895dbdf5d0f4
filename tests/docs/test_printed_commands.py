"""Commands that pages and help texts print: their options exist, and those of the decision log's page run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the [cli] extra")

import typer

from bidkv.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "README.zh.md"]
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
INLINE = re.compile(r"`(bidkv [^`]+)`")
PASSES_ON = {"experiment"}
"""Its options are the runners' own."""


def printed_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every printed `bidkv` command: its name and its words."""
    for block in (*FENCED.findall(text), *INDENTED.findall(text), *INLINE.findall(text)):
        for line in block.replace("\\\n", " ").splitlines():
            for name, rest in re.findall(r"(?:^|[\s(])bidkv ([a-z]+)\b([^|&#>]*)", line):
                if name in COMMANDS:
                    # A quotation may be cut by what follows a bar; options stand outside of it.
                    yield name, rest.split()


def options_of(name: str) -> set[str]:
    group = typer.main.get_command(app)
    command = group.get_command(None, name)  # type: ignore[attr-defined]
    # A group of commands has the options of all of them.
    commands = [command, *getattr(command, "commands", {}).values()]
    return {
        option
        for each in commands
        for parameter in each.params
        for option in (*parameter.opts, *parameter.secondary_opts, "--help")
    }


def examples() -> dict[str, str]:
    group = typer.main.get_command(app)
    return {name: group.get_command(None, name).help or "" for name in COMMANDS}  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_printed_options_exist(page: Path) -> None:
    for name, words in printed_commands(page.read_text(encoding="utf-8")):
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options_of(name)
        assert not unknown or name in PASSES_ON, f"bidkv {name}: {unknown}"


def test_the_options_of_examples_exist() -> None:
    for text in examples().values():
        for name, words in printed_commands(f"```\n{text}\n```"):
            unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options_of(name)
            assert not unknown or name in PASSES_ON, f"bidkv {name}: {unknown}"


def test_there_is_something_to_check() -> None:
    found = [name for page in PAGES for name, _ in printed_commands(page.read_text(encoding="utf-8"))]
    assert len(found) > 30
    assert {"simulate", "plan", "calibrate", "top", "explain", "replay", "timeline"} <= set(found)
    assert all("bidkv " in text for text in examples().values())


def test_the_decision_logs_commands_run_as_printed(tmp_path: Path) -> None:
    text = (ROOT / "docs/reference/decision-log.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said = []
    for line in block.splitlines():
        tool, *words = shlex.split(line.removeprefix("$ "), comments=True)
        assert tool == "bidkv"
        done = subprocess.run(
            [sys.executable, "-m", "bidkv.cli", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "preemptions of" in said[1]
    assert "was preempted" in said[2]
    assert "fair" in said[3]
    assert (tmp_path / "timeline.json").stat().st_size > 10_000
