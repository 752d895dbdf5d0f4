"""`bidkv tournament`: its interface, its figures, and what it says about bad input."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402

RUNNER = typer_testing.CliRunner()
SMALL = [
    "--family",
    "mixed",
    "--size",
    "T",
    "--load",
    "1.1",
    "--seeds",
    "2",
    "--requests",
    "60",
    "--jobs",
    "1",
]


def run(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["tournament", *arguments])


def test_a_table_and_files(tmp_path: Path) -> None:
    docs = tmp_path / "policies.md"
    docs.write_text(
        "<!-- policies: begin --><!-- policies: end --><!-- standings: begin --><!-- standings: end -->"
    )
    files = [tmp_path / name for name in ("new/out.json", "pareto.html", "pareto.png")]
    options = [text for file in files for text in (f"--{file.suffix[1:]}", str(file))]
    result = run("--strategy", "lcf,watermark:f=0.05", *SMALL, *options, "--docs", str(docs))
    assert result.exit_code == 0, result.output
    assert "watermark:f=0.05" in result.stdout
    assert set(json.loads(files[0].read_text())["policies"]) == {"preempt-evict", "lcf", "watermark:f=0.05"}
    assert all(file.stat().st_size > 0 for file in files)
    assert "### T: 600 blocks" in docs.read_text()


def test_json_on_stdout_is_all_there_is() -> None:
    result = run("--strategy", "lcf", *SMALL, "--split", "held_out", "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plan"]["seeds"] == [1001, 1002]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "nobody"], "policy 'nobody' does not exist"),
        (["--machine", "abacus"], "--machine: expected one of h100-8b"),
        (["--family", "nothing"], "family 'nothing' does not exist"),
        (["--family", "agents-8-turns"], "family 'agents-8-turns' holds sessions: add --sessions"),
        (["--jobs", "0"], "--jobs: expected at least 1, or -1 for all cores, got 0"),
        (["--output-dir", __file__], "--output-dir: expected a folder, found the file"),
        (["--size", "XL"], "size 'XL' does not exist"),
        (["--load", "1,x"], "--load: expected numbers"),
        (["--load", ","], "--load: expected values with commas between them, found an empty one in ','"),
        (["--seeds", "99"], "--seeds: expected 1 to 8"),
        (["--docs", "no/such/file.md"], "--docs: no/such/file.md"),
        (["--png", "picture.gif"], "--png: expected a name that ends in .png"),
        (["--trace", "no/such.csv"], "--trace: no/such.csv"),
        (["--columns", "time=a"], "--columns: expected together with --trace"),
        (["--sessions", "--trace", "azure-conv"], "--trace: a tournament of sessions generates them"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options: list[str], message: str) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_files_take_part_as_stated(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("when,in,out\n" + "".join(f"{k * 0.5},{100 + k},{20 + k % 90}\n" for k in range(200)))
    small = [*("--strategy", "lcf", "--size", "T,9/4", "--load", "1.1", "--seeds", "1"), "--jobs", "1"]
    small += ["--requests", "50", "--json", "-"]
    refused = run("--trace", str(log), *small)
    assert refused.exit_code == 2
    assert "--columns" in refused.stderr
    done = run("--trace", str(log), "--columns", "time=when,prompt=in,output=out", "--time-unit", "s", *small)
    assert done.exit_code == 0, done.output
    assert "log.csv: columns, 200 requests, timestamps in s over 99.5 s, 2 a second" in done.stderr
    assert "log.csv at 9/4: left out" in done.stderr
    document = json.loads(done.stdout)
    assert document["plan"]["families"] == ["log.csv"]
    assert document["plan"]["files"][0]["statements"]["time_unit"] == "s"
    assert {cell["size"] for cell in document["cells"]} == {"T", "9/4"}


def test_a_tournament_of_sessions(tmp_path: Path) -> None:
    arguments = [
        *("tournament", "--sessions", "--strategy", "fair", "--family", "agents-8-turns"),
        *("--size", "quarter", "--machine", "h100-8b", "--load", "1", "--level", "2", "--seeds", "2"),
        *("--open-s", "120", "--warm-up-s", "10", "--closed-s", "30", "--jobs", "1"),
    ]
    out = tmp_path / "sessions.json"
    result = RUNNER.invoke(app, [*arguments, "--knees", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "session rate that a policy sustains, relative to preempt-evict" in result.stdout
    document = json.loads(out.read_text(encoding="utf-8"))
    assert set(document["policies"]) == {"preempt-evict", "fair"}
    assert all(set(group["rates"]) == {"preempt-evict", "fair"} for group in document["knees"])
    closed = RUNNER.invoke(app, [*arguments, "--load", "none", "--json", str(out)])
    assert closed.exit_code == 0, closed.output
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    assert {cell["mode"] for cell in cells} == {"closed"}
    neither = RUNNER.invoke(app, [*arguments, "--load", "none", "--level", "none"])
    assert neither.exit_code == 2
    assert "expected at least one load or level" in neither.stderr
    wrong = RUNNER.invoke(app, [*arguments, "--requests", "5"])
    assert wrong.exit_code == 2
    assert "--requests: a tournament of sessions" in wrong.stderr


def test_ctrl_c_is_one_line_and_what_is_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_the_first(function: Any, tasks: Any, jobs: int) -> Any:
        yield function(next(iter(tasks)))
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        module = importlib.import_module("bidkv.tournament.evaluate")
        stopped.setattr(module, "map_on_processes", stop_after_the_first)
        result = run("--strategy", "lcf", *SMALL, "--output-dir", str(tmp_path))
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        f"bidkv: interrupted; the same command goes on from what is finished in {tmp_path}\n"
    )
    assert [file.name for file in (tmp_path / "T").iterdir()] == ["mixed-1.json"]


def test_processes_of_a_tournament_ignore_what_the_terminal_sends_to_all() -> None:
    from bidkv.evaluation.processes import new_processes_ignore_interrupts

    here = signal.getsignal(signal.SIGINT)
    with new_processes_ignore_interrupts():
        probe = "import signal; print(signal.getsignal(signal.SIGINT).name)"
        child = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert child.stdout == "SIG_IGN\n"
    assert signal.getsignal(signal.SIGINT) is here
