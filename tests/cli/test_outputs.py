"""What commands write: nothing before a run that fails, never over their own input, never over a device."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402

RUNNER = typer_testing.CliRunner()
ROW = '{"timestamp": 0, "input_length": 10, "output_length": 5}\n'
FULL = Path("/dev/full")


def run(*arguments: object) -> Any:
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.jsonl"
    file.write_text(ROW)
    return file


def refused(result: Any, message: str) -> bool:
    return (result.exit_code, message in result.stderr, result.stderr.count("\n")) == (2, True, 1)


def test_a_run_that_cannot_start_leaves_no_file(tmp_path: Path) -> None:
    files = ("--json", tmp_path / "figures.json", "--html", tmp_path / "page.html")
    assert refused(run("simulate", "--trace", tmp_path / "absent.jsonl", *files), "--trace")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept_when_a_run_cannot_start(tmp_path: Path) -> None:
    before = tmp_path / "figures.json"
    before.write_text("{}")
    run("simulate", "--trace", tmp_path / "absent.jsonl", "--json", before)
    assert before.read_text() == "{}"


@pytest.mark.parametrize("command", ["convert", "cut", "anonymize"])
def test_a_trace_is_not_written_over_itself(command: str, trace: Path) -> None:
    again = trace.parent / "." / trace.name
    assert refused(run("trace", command, trace, again), "OUTPUT: expected another file than the input")
    assert trace.read_text() == ROW


def test_a_log_is_not_replaced_by_its_timeline(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    log.write_text("")
    assert refused(run("timeline", log, "--out", log), "--out: expected another file than the input")


def test_what_is_no_log_does_not_replace_a_timeline(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "timeline.json"
    out.write_text("an earlier one")
    assert refused(run("timeline", trace, "--out", out), "expected a JSON object with a field 'kind'")
    assert out.read_text() == "an earlier one"


def test_a_trace_does_not_replace_what_is_no_regular_file(trace: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refused(run("trace", "convert", trace, pipe), "expected a regular file")
    assert pipe.is_fifo()


def test_the_side_that_is_wrong_is_named(tmp_path: Path, trace: Path) -> None:
    broken, out = tmp_path / "broken.jsonl", tmp_path / "out.jsonl"
    broken.write_text(ROW + ROW.replace("10", "-3"))
    assert refused(run("trace", "convert", broken, out), f"TRACE: {broken}, line 2, field 'input_length'")
    assert refused(run("trace", "convert", trace, out, "--to", "morse"), "--to: expected one of mooncake")
    assert not out.exists()
    assert refused(run("trace", "inspect", trace, "--picture", tmp_path / "a.gif"), "ends in .svg")


@pytest.mark.skipif(not FULL.is_char_device(), reason="needs /dev/full, which only Linux has")
def test_a_full_disk_is_one_line(trace: Path) -> None:
    command = [sys.executable, "-m", "bidkv", "simulate", "--trace", trace, "--strategy", "fair"]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "bidkv: error: output: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_name_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    trace = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    trace.write_text(ROW)
    page, settings = tmp_path / "page.html", tmp_path / "run.toml"
    command = [sys.executable, "-m", "bidkv", "simulate", "--trace", trace, "--strategy", "fair"]
    done = subprocess.run([*command, "--html", page], capture_output=True, text=True, check=False)
    assert (done.returncode, "caf\\udce9" in page.read_text()) == (0, True), done.stderr
    result = run("simulate", "--trace", trace, "--strategy", "fair", "--write-config", settings)
    assert refused(result, "--write-config: expected values of UTF-8 text")
    assert not settings.exists()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_figure_is_cut_on_a_narrow_terminal(width: int) -> None:
    from rich.console import Console

    from bidkv.evaluation.tables import summary_tables

    options = ("--limit", 20, "--strategy", "preempt-evict,fair", "--json", "-")
    summaries = json.loads(run("simulate", *options).stdout)["runs"]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*summary_tables(summaries, width))
    lines = console.export_text().splitlines()
    words = " ".join(lines).split()
    assert max(map(len, lines)) <= width
    assert "…" not in " ".join(words)
    tables = words.count("strategy")
    assert (tables > 1) == (width < 100)
    assert words.count("fair") == words.count("preempt-evict") == tables
    for heading in ("req/s", "preempt.", "hits"):
        assert words.count(heading) == 1


def test_a_pipe_that_closes_early_costs_no_file(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bidkv.cli", "simulate", "--limit", "5", "--strategy", "fair"]
    done = subprocess.run(
        [*command, "--html", str(page)], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert "fair" in page.read_text()
