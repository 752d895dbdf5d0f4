"""A newcomer's first day: every command that the first pages print runs as printed, in one folder.

Long commands are shortened by options behind their own, which are stated here; a command that cannot run here
is listed with the place that runs it. A new command on one of the pages fails until it is listed.
The tutorial runs in tests/vllm/test_tutorial.py, the decision log's page in test_printed_commands.py.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the [cli] extra")
pytest.importorskip("altair", reason="needs the [report] extra")
pytest.importorskip("joblib", reason="needs the [experiments] extra")

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces import write_mooncake

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/guide/sessions.md",
    "docs/guide/operations.md",
    "docs/guide/experiments.md",
    "docs/reference/stability.md",
)
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}\S.*\n(?:^ {4,}.*\n)*)+", re.MULTILINE)
INLINE = re.compile(r"`(bidkv \w+ [^`|]*--[^`|]*)`")
TOOLS = ("bidkv", "python", "make", "docker", "echo", "pytest", "promtool", "BIDKV_STRATEGY=fair")

SHORTER = {
    "bidkv simulate --trace trace.jsonl": "",
    "bidkv simulate --trace my-trace.jsonl": "",
    "bidkv simulate --workload agents-20-turns": "--sessions 4 --concurrent-sessions 2 --duration-s 20",
    "BIDKV_STRATEGY=fair BIDKV_METRICS_PORT=9400 bidkv doctor": "--quick",
    "echo": "",
    "python -m bidkv.experiments.vllm.runner": "--engine sim --jobs 1 --requests 12 --runs 1",
    "bidkv report results/mine": "",
    "bidkv experiment --engine vllm": (
        "--engine sim --jobs 1 --requests 4 --concurrent-sessions 2 --duration-s 20 --runs 1"
    ),
    "bidkv plan --trace azure-conv": "--limit 300",
}
"""What a command begins with, and the options behind it here; the simulator stands in for real engines."""

ELSEWHERE = {
    "make demo": "tests/docs/test_readme.py runs both of its commands and compares their figures",
    "make test": "runs this",
    "docker": "there is no Docker here; tests/observability/test_deploy.py checks what the files say",
    "python scripts/check_dashboard.py": "tests/vllm/test_dashboard.py runs it beside a real Prometheus",
    "bidkv simulate --trace FILE": "the page's FILE is any trace: the README's command has one",
    "bidkv plan --prompt-tokens": "it simulates fleets: tests/planning/test_plan.py does",
    "bidkv explain decisions.jsonl": "test_printed_commands.py runs it on a log",
    "bidkv explain FILE --session": "tests/observability/test_session_story.py tells sessions of a real log",
}

SUCCEEDS_WITH = {"BIDKV_STRATEGY=fair BIDKV_METRICS_PORT=9400 bidkv doctor": (0, 1)}
"""Without an engine, `doctor` says so with exit code 1."""


def commands(page: str) -> Iterator[str]:
    """The commands that a page prints, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text)), *INLINE.findall(text)]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ")
            if words.startswith(TOOLS):
                yield re.sub(r"\s+", " ", words.partition("  #")[0].partition("    #")[0]).strip()


def matching(table: dict[str, str], command: str) -> str | None:
    return next((start for start in table if command.startswith(start)), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newcomer's folder, with a trace of its own server under the two names that pages use."""
    work = tmp_path_factory.mktemp("newcomer")
    requests = [WorkloadRequest(f"r{i}", i * 0.5, 300 + 40 * (i % 7), 40 + i % 50) for i in range(60)]
    for name in ("trace.jsonl", "my-trace.jsonl"):
        write_mooncake(requests, work / name)
    tools = work / "bin"
    tools.mkdir()
    (tools / "bidkv").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bidkv.cli "$@"\n')
    (tools / "bidkv").chmod(0o755)
    (tools / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tools / "python").chmod(0o755)
    return work


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_printed(page: str, folder: Path) -> None:
    printed = list(commands(page))
    assert printed
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "BIDKV_CONTROL_FILE": str(folder / "control"),
    }
    for command in printed:
        if matching(ELSEWHERE, command) is not None:
            continue
        start = matching(SHORTER, command)
        assert start is not None, f"{page}: {command!r} is in neither list of this file"
        done = subprocess.run(
            f"umask 077; {command} {SHORTER[start]}",
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        said = f"$ {command} {SHORTER[start]}\n{done.stdout}{done.stderr}"
        assert done.returncode in SUCCEEDS_WITH.get(start, (0,)), said
        assert "Traceback" not in said, said


def test_both_lists_are_of_commands_that_pages_print() -> None:
    printed = [command for page in PAGES for command in commands(page)]
    for table in (SHORTER, ELSEWHERE):
        for start in table:
            assert any(command.startswith(start) for command in printed), start
