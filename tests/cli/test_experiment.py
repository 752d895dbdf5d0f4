"""`bidkv experiment` and `bidkv report`, from words to files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the [cli] extra")
pytest.importorskip("scipy", reason="needs the [experiments] extra")

from typer.testing import CliRunner

from bidkv.cli.app import app

RUNNER = CliRunner()
WORDS = (
    "--engine sim --strategies preempt-evict,lcf,bidkv --mixed-rates 3.0,4.5 --runs 2 --requests 60 --jobs 1"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("experiment") / "out"
    done = RUNNER.invoke(app, ["experiment", *WORDS.split(), "--output-dir", str(where)])
    assert done.exit_code == 0, done.output
    assert "lcf against preempt-evict, mean end-to-end latency" in done.stdout
    return where


def test_the_report_says_what_the_run_said_and_writes_every_run(folder: Path, tmp_path: Path) -> None:
    words = ["report", str(folder), "--markdown", str(tmp_path / "r.md"), "--csv", str(tmp_path / "r.csv")]
    done = RUNNER.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "bidkv against preempt-evict" in " ".join(done.stdout.split())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert len(rows) == 12
    assert {row["strategy"] for row in rows} == {"preempt-evict", "lcf", "bidkv"}
    assert all(float(row["e2e_s.mean"]) > 0.0 for row in rows)
    text = (tmp_path / "r.md").read_text()
    assert text.count("| mixed at 3/s | lcf |") == 1
    assert "## Against preempt-evict: p99 time to first token" in text


def test_a_tighter_objective_is_attained_by_fewer(folder: Path, tmp_path: Path) -> None:
    shares = []
    for bound in ("100", "0.05"):
        file = tmp_path / f"{bound}.csv"
        done = RUNNER.invoke(app, ["report", str(folder), "--csv", str(file), "--ttft-slo-s", bound])
        assert done.exit_code == 0, done.output
        rows = csv.DictReader(io.StringIO(file.read_text()))
        shares.append(sum(float(row["slo_attainment"]) for row in rows))
    assert shares[1] < shares[0]


def test_the_options_are_listed() -> None:
    done = RUNNER.invoke(app, ["experiment", "--", "--help"])
    assert done.exit_code == 0
    assert "--mixed-rates" not in done.stdout  # one for every workload: told in words
    assert "Where no rates are given: 0.8, 1.0, 1.3 of the throughput" in " ".join(done.stdout.split())
    assert RUNNER.invoke(app, ["experiment", "--help"]).stdout == done.stdout


def test_another_engine_is_refused() -> None:
    done = RUNNER.invoke(app, ["experiment", "--engine", "tgi"])
    assert done.exit_code == 2
    assert "expected vllm, sglang or sim, got 'tgi'" in done.stderr


def test_a_folder_without_an_experiment_is_refused(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "no experiment here" in done.stderr


def test_a_broken_result_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "runs").mkdir(parents=True)
    (copy / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    name = next(folder.glob("runs/*")).name
    (copy / "runs" / name).write_text("{}")
    done = RUNNER.invoke(app, ["report", str(copy)])
    assert done.exit_code == 2
    assert name in done.stderr
    assert "expected an object with exactly the fields" in done.stderr


@pytest.mark.parametrize("engine", ["vllm", "sglang", "sim"])
def test_errors_begin_as_those_of_every_command(engine: str, tmp_path: Path) -> None:
    words = ["experiment", "--engine", engine, "--output-dir", str(tmp_path), "--strategies"]
    done = RUNNER.invoke(app, [*words, "fair,,lcf"])
    assert done.exit_code == 2
    assert done.stderr.startswith("bidkv: error: --strategies: expected values with commas")
    assert "Usage: bidkv experiment " in RUNNER.invoke(app, [*words[:3], "--no-such-option"]).stderr
