"""Commands that pages and help texts print: their own parsers take them, the files they name exist, and those
of the decision log's page run."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("typer", reason="needs the [cli] extra")

import click
import typer
import typer.core

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


PROGRAM = re.compile(r"python -m ((?:bidkv|benchmarks|tests)\.[a-z_.]+)((?: [^|&<>#`\n]*)?)")
SCRIPT = re.compile(r"python (scripts/[a-z_]+\.py)((?: [^|&<>#`\n]*)?)")
EXPERIMENT = re.compile(r"bidkv experiment((?: [^|&<>#`\n]+)?)")
RUNNER = "bidkv.experiments.vllm.runner"
"""What `bidkv experiment` hands its words to."""
PARSES = ("run_command", "run_main", "typer.run")
NAMED = re.compile(r"(?<![\w/.-])(?:tests|benchmarks|scripts|deploy|src)/[\w./-]*\w")
TARGETS = re.compile(r"^\s*(?:\$ )?make ([a-z-]+)|`make ([a-z-]+)`", re.MULTILINE)


def one_line_each(text: str) -> str:
    """Return a page with every command on one line."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return re.sub(r"`[^`\n]+\n[^`\n]+`", lambda found: found[0].replace("\n", " "), joined)


def programs(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every printed `python -m` and `bidkv experiment` command: its module and its words."""
    found = PROGRAM.findall(text) + [(RUNNER, words) for words in EXPERIMENT.findall(text)]
    for module, words in found:
        if not words.endswith("..."):
            yield module, shlex.split(words)


class Parsed(Exception):
    """A program's own parser took its words."""


def parse_only(command: click.Command, args: Sequence[str] | None = None, **settings: Any) -> NoReturn:
    """Stand in for a command's `main`: parse, and run nothing."""
    command.make_context("docs", sys.argv[1:] if args is None else list(args), obj=settings.get("obj"))
    raise Parsed


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_take_their_printed_words(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.core.TyperCommand, "main", parse_only)
    for module, words in programs(one_line_each(page.read_text(encoding="utf-8"))):
        found = importlib.util.find_spec(module)
        assert found is not None, module
        assert found.origin is not None
        # Others take their words as they are; two words or less are a program's name, not a whole command.
        if len(words) <= 2 or not any(name in Path(found.origin).read_text() for name in PARSES):
            continue
        monkeypatch.setattr(sys, "argv", [module, *words])
        with pytest.raises(Parsed):
            run_as_main(module)


def run_as_main(module: str) -> None:
    """Do what `python -m` does."""
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_scripts_have_their_printed_options() -> None:
    for page in PAGES:
        for script, words in SCRIPT.findall(one_line_each(page.read_text(encoding="utf-8"))):
            source = (ROOT / script).read_text(encoding="utf-8")
            for option in re.findall(r"--([a-z-]+)", words):
                assert option.replace("-", "_") in source, f"{page.name}: {script} --{option}"


def test_files_and_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        missing = [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
        assert not missing, f"{page.name}: {missing}"
        unknown = {name for pair in TARGETS.findall(text) for name in pair if name} - targets
        assert not unknown, f"{page.name}: make {unknown}"


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
