"""`bidkv calibrate`: fit, compute or check a step-time profile from a shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="needs the [sim] extra")
typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.calibration import report  # noqa: E402
from bidkv.cli.app import app  # noqa: E402
from bidkv.profiles import load_profile  # noqa: E402

RUNNER = typer_testing.CliRunner()
RECORDED = Path(__file__).parent.parent / "data" / "h100"
STEPS, RUN = str(RECORDED / "steps_compiled.csv"), str(RECORDED / "run_compiled.steps.csv")


def test_a_step_log_becomes_a_profile_and_a_report(tmp_path: Path) -> None:
    out, report = tmp_path / "mine.json", tmp_path / "report.json"
    fit = ["calibrate", "--steps", STEPS, "--name", "mine", "--out", str(out), "--no-compare"]
    check = ["--check", RUN, "--check-max-num-seqs", "32", "--json", str(report)]
    result = RUNNER.invoke(app, [*fit, *check])
    assert result.exit_code == 0, result.output
    assert "mine: 1084 steps" in result.output
    assert "Not covered by these steps:" in result.output
    assert load_profile(out).coefficients() == pytest.approx(
        load_profile("h100-llama3.1-8b").coefficients(), rel=1e-5
    )
    document = json.loads(report.read_text())
    assert document["check"][0]["regime"] == "all steps"
    assert abs(document["check"][0]["total"]) < 0.01


def test_the_report_page_holds_the_report_and_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the [report] extra")
    page = tmp_path / "report.html"
    arguments = ["--check", RUN, "--check-max-num-seqs", "32", "--html", str(page)]
    result = RUNNER.invoke(app, ["calibrate", "--steps", STEPS, "--no-compare", *arguments])
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "Not covered by these steps:" in text
    assert "not fitted" in text
    assert "default-src" in text
    assert "vega-lite" in text
    nothing = RUNNER.invoke(app, ["calibrate", "--analytic", "llama-3.1-8b", "--html", str(page)])
    assert "--html: expected --steps or --check" in nothing.output


def test_the_candidate_models_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of them are compared in tests/calibrate; here two say what the command does.
    monkeypatch.setattr(report, "CANDIDATES", report.CANDIDATES[:2])
    result = RUNNER.invoke(app, ["calibrate", "--steps", STEPS, "--json", "-"])
    models = {row["model"]: row for row in json.loads(result.output)["cross_validation"]}
    assert set(models) == {"sum", "max"}
    assert all(0.0 < row["prefill"] < 0.1 for row in models.values())


def test_a_profile_is_computed_from_data_sheets(tmp_path: Path) -> None:
    out = tmp_path / "h200.json"
    result = RUNNER.invoke(
        app, ["calibrate", "--analytic", "llama-3.1-8b", "--gpu", "h200", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "h200-llama-3.1-8b-analytic (analytic): roofline, never measured" in result.output
    assert load_profile(out).kind == "analytic"


def test_a_packaged_profile_is_checked_on_a_run() -> None:
    result = RUNNER.invoke(
        app, ["calibrate", "--profile", "h100-llama3.1-8b", "--check", RUN, "--check-max-num-seqs", "32"]
    )
    assert result.exit_code == 0, result.output
    assert "decode, 17-32 requests" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected exactly one of --steps, --analytic and --profile"),
        (["--steps", STEPS, "--profile", "x"], "expected exactly one of"),
        (["--steps", "none.csv"], "--steps: none.csv: No such file"),
        (["--steps", STEPS, "--model", "cubic"], "--steps: unknown model 'cubic': expected one of sum; max;"),
        (["--profile", "h200"], "--profile: unknown profile 'h200': expected one of h100-llama3.1-8b"),
        (["--analytic", "llama-3.1-8b", "--gpu", "tpu"], "--analytic: unknown GPU 'tpu': expected one of"),
        (["--engine", "vllm", "--profile", "x"], "--engine: expected --steps, the step log to record"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["calibrate", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("option", ["--out", "--html", "--json"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path, option: str) -> None:
    result = RUNNER.invoke(app, ["calibrate", "--steps", "none.csv", option, str(tmp_path)])
    assert result.exit_code == 2
    assert f"{option}: {tmp_path}: Is a directory" in result.output
