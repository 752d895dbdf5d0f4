"""The adapter on a real H100: the recorded figures, the tables printed from them, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bidkv.evaluation.statistics import compare_pairs
from bidkv.gpu_host import replay
from bidkv.gpu_host.overhead import main

RECORDED = Path(__file__).parents[1] / "data" / "h100" / "adapter" / "overhead.json"
FIGURES = json.loads(RECORDED.read_text())


def test_the_adapter_costs_no_throughput_that_seven_pairs_could_show() -> None:
    cost = FIGURES["without_pressure"]
    ours, plain = ([pair[side] for pair in cost["pairs"]] for side in ("ours_rps", "plain_rps"))
    change = compare_pairs(ours, plain)
    assert len(ours) == 7
    assert not change.is_shown
    assert change.low > -0.01
    assert (1 + change.estimate, 1 + change.low) == pytest.approx((cost["ratio"], cost["ratio_low"]))
    assert cost["counters"]["pressured_steps"] == 0


def test_everybody_preempted_was_named_by_the_policy() -> None:
    for run in FIGURES["under_pressure"]:
        assert run["preempted"] == run["preempted_as_named"] == run["named"] > 40
        assert run["pool_whole"]
        assert run["active"]


def test_the_tables_show_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show", str(RECORDED)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| 1 | 49.48 | 49.66 |"
    assert "adapter / plain: 1.0025, 95 % interval 0.9932 to 1.0119" in lines
    assert "| fast | 72 | 72 | 71 | yes |" in lines


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("nothing", "expected what --output wrote"),
        ("[]", "expected what --output wrote"),
    ],
)
def test_figures_that_are_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_text(content)
    assert main(["--show", str(file)]) == 2
    printed = capsys.readouterr().err
    assert str(file) in printed
    assert says in printed


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), ("nothing", "expected a JSON list"), ("{}", "expected a JSON list")],
)
def test_a_plan_of_a_replay_that_is_none_is_named_before_an_engine_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    plan, results = tmp_path / "plan.json", tmp_path / "results"
    if content is not None:
        plan.write_text(content)
    words = ["--plan", str(plan), "--output-dir", str(results), "--num-gpu-blocks", "600"]
    assert replay.main(words) == 2
    printed = capsys.readouterr().err
    assert str(plan) in printed
    assert says in printed
    assert not results.exists()
