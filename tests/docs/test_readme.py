"""The README: its figures are the demo's, its commands exist, and the Chinese one says the same."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import COMMANDS, app  # noqa: E402

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def demo_command(number: int = -1) -> list[str]:
    """One command of `make demo`, without the page and with figures; by default the last."""
    # The suite runs under make itself, which would pass its options on and print folders.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    lines = [line for line in printed.replace("\\\n", " ").splitlines() if " simulate " in line]
    command = lines[number]
    words = shlex.split(command)
    words = words[words.index("simulate") :]
    page = words.index("--html")
    return [*words[:page], *words[page + 2 :], "--json", "-"]


def figures(text: str) -> list[list[str]]:
    """The rows of the demo's table: the policy's name and the figures."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count(" | ") == 5]
    return [[re.findall(r"`([\w-]+)`", row[0])[0], *row[1:]] for row in rows if "`" in row[0]]


def test_the_tables_figures_are_what_make_demo_prints() -> None:
    result = typer_testing.CliRunner().invoke(app, demo_command())
    assert result.exit_code == 0, result.output
    runs = json.loads(result.stdout)["runs"]

    def row(run: dict[str, Any]) -> list[str]:
        e2e = run["e2e_s"]
        return [
            run["strategy"],
            f"{run['ttft_s']['mean']:.2f} s",
            f"{e2e['mean']:.2f} s",
            f"{e2e['p99']:.1f} s",
            str(run["preemptions"]),
            f"{run['recompute_tax']:.1%}",
        ]

    assert figures(ENGLISH) == [row(run) for run in runs]


def test_the_session_tables_figures_are_what_make_demo_prints() -> None:
    result = typer_testing.CliRunner().invoke(app, demo_command(0))
    assert result.exit_code == 0, result.output

    def row(run: dict[str, Any]) -> list[str]:
        sessions = run["sessions"]
        return [
            run["strategy"],
            f"{sessions['turns_per_s']:.2f}",
            f"{sessions['turn_s']['p50']:.1f} s",
            f"{sessions['turn_s']['mean']:.1f} s",
            str(sessions["completed"]),
            f"{sessions['computed_per_new_token']:.2f}",
            f"{sessions['prefix_hit_rate']:.0%}",
        ]

    for text in (ENGLISH, CHINESE):
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count(" | ") == 6]
        shown = [[re.findall(r"`([\w-]+)`", line[0])[0], *line[1:]] for line in lines if "`" in line[0]]
        assert shown == [row(run) for run in json.loads(result.stdout)["runs"]]


def test_every_command_of_the_readme_exists() -> None:
    for block in FENCE.findall(ENGLISH):
        for line in block.splitlines()[1:-1]:
            tool, name, *_ = line.split()
            assert name in {"make": targets_of_make(), "bidkv": set(COMMANDS)}[tool], line
    for name in re.findall(r"`bidkv (\w+)", ENGLISH):
        assert name in COMMANDS
    for name in re.findall(r"`make (\w+)`", ENGLISH):
        assert name in targets_of_make()


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_links_and_paths_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_chinese_readme_keeps_step() -> None:
    """Same headings, blocks, figures, links and code, in the same places: a change needs its translation."""

    def shape(text: str) -> dict[str, list[Any]]:
        prose = FENCE.sub("", text)
        return {
            "code blocks": FENCE.findall(text),
            "headings": re.findall(r"^#+", prose, re.MULTILINE),
            "figures": figures(prose),
            "rows of tables": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
            # Each may lead to the other.
            "links": sorted(re.findall(r"\]\((?!README)([^)]+)\)", prose)),
            "code": sorted(re.findall(r"`([^`\n]+)`", prose)),
            "points": re.findall(r"^\* \*\*", prose, re.MULTILINE),
        }

    assert shape(CHINESE) == shape(ENGLISH)
