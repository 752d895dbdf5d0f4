"""Tables of session replays: means, changes over pairs, and what the simulator makes of the same runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="needs the [experiments] extra")

from bidkv.evaluation.statistics import compare_pairs
from bidkv.gpu_host.session_pairs import main, pairs_table, read_results, simulate_window
from bidkv.gpu_host.session_plan import SessionRun
from bidkv.profiles import load_profile
from bidkv.results import EngineTotals, RunResult, encode

TURNS = {"preempt-evict": (2.0, 2.2, 2.1), "fair": (3.0, 3.4, 3.1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for policy, rates in TURNS.items():
        for pair, turns_per_s in enumerate(rates, 1):
            run = SessionRun(
                f"{policy}-{pair}", "agents-8-turns", policy, 12, sessions=40, window_s=60.0, pair=pair
            )
            latency = {"mean": 20.0 / turns_per_s, "p50": 5.0, "p99": 60.0}
            sessions = {
                "turns_per_s": turns_per_s,
                "completed": 9,
                "turn_s": latency,
                "computed_per_new_token": None,
            }
            notes = {"run": asdict(run), "window": {"sessions": sessions}}
            result = RunResult(policy, [], EngineTotals(), 90.0, 90.0, notes=notes)
            (tmp_path / f"{run.name}.json").write_text(encode(result))
    (tmp_path / "engine-1.json").write_text("{}")
    return tmp_path


def test_a_policy_is_compared_over_the_pairs_that_both_ran(folder: Path) -> None:
    rows = pairs_table(read_results(folder))
    assert len(rows) == 4
    own, ours = sorted(rows[2:], key=lambda row: "fair" in row)
    change = compare_pairs(TURNS["fair"], TURNS["preempt-evict"])
    assert f"3.17: {change}" in ours
    assert change.is_shown
    assert "| 2.1 |" in own
    (folder / "fair-2.json").unlink()
    assert str(compare_pairs((3.0, 3.1), (2.0, 2.1))) in "".join(pairs_table(read_results(folder)))


def test_every_run_is_simulated_as_it_was_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = load_profile("h100-llama3.1-8b-traffic")
    run = read_results(folder)[0].run
    simulated = simulate_window(run, profile, folder)
    assert simulated["turns/s"] > 0.0
    assert main([str(folder), "--profile", "h100-llama3.1-8b-traffic"]) == 0
    assert f"{simulated['turns/s']:.3g}, " in capsys.readouterr().out


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no result files" in capsys.readouterr().err
    (tmp_path / "x.json").write_text(encode(RunResult("fair", [], EngineTotals(), 1.0, 1.0)))
    assert main([str(tmp_path)]) == 2
    assert "expected the result of a session replay" in capsys.readouterr().err
