"""`bidkv simulate --stream`: the figures of a run that keeps no request are those of one that keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.results import Outcome, RecordTally, RequestRecord, RunResult, StreamedResult
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads import generate
from bidkv.workloads.streamed import StreamedRequests
from bidkv.workloads.traces import write_mooncake

SMALL = ("--num-gpu-blocks", "600", "--max-num-seqs", "32", "--strategy", "preempt-evict,fair", "--json", "-")
ABOUT = {"ttft_s", "e2e_s", "tpot_s"}
"""Figures with percentiles of a histogram, whose bins are 1.6 % wide."""


def run(path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(app, ["simulate", "--trace", str(path), *SMALL, *arguments])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "trace.jsonl"
    write_mooncake(generate("long_context", n=600, rate_rps=2.0, seed=1, max_total_tokens=12_000), path)
    return path


def test_figures_are_those_of_a_run_that_keeps_its_requests(trace: Path) -> None:
    kept, kept_errors = run(trace)
    streamed, errors = run(trace, "--stream")
    assert errors == kept_errors or sorted(errors.splitlines()) == sorted(kept_errors.splitlines())
    assert streamed["config"]["requests"] == kept["config"]["requests"] < 600
    assert streamed["config"]["left_out"] == kept["config"]["left_out"] > 0
    assert streamed["config"]["arrival_rate_rps"] == kept["config"]["arrival_rate_rps"]
    for one, other in zip(streamed["runs"], kept["runs"], strict=True):
        for name, value in other.items():
            if name in ABOUT:
                assert one[name]["mean"] == pytest.approx(value["mean"])
                for percentile in ("p50", "p90", "p99"):
                    assert one[name][percentile] == pytest.approx(value[percentile], rel=0.009)
            elif name != "wall_s":
                assert one[name] == value, name


def test_a_fleet_streams_too(trace: Path) -> None:
    kept, _ = run(trace, "--replicas", "3")
    streamed, _ = run(trace, "--replicas", "3", "--stream")
    for one, other in zip(streamed["runs"], kept["runs"], strict=True):
        assert "replicas" not in one
        assert one["requests"] == other["requests"]
        assert one["e2e_s"]["mean"] == pytest.approx(other["e2e_s"]["mean"])
        assert one["preemptions"] == other["preemptions"]


def test_what_is_said_of_an_overloaded_run_is_the_same(trace: Path) -> None:
    words = ["simulate", "--trace", str(trace), "--num-gpu-blocks", "600", "--strategy", "preempt-evict"]
    kept, streamed = (CliRunner().invoke(app, [*words, *more]) for more in ((), ("--stream",)))
    assert "The engine is overloaded" in kept.stdout
    assert streamed.stdout.split("The engine is")[1] == kept.stdout.split("The engine is")[1]


def test_arrivals_are_sampled_in_bounded_memory() -> None:
    tally = RecordTally()
    for k in range(300_000):
        tally.add(RequestRecord(f"r{k}", float(k), 1, 1, k + 0.5, k + 1.0))
    assert len(tally.arrivals_s) <= 65_536
    assert tally.arrivals_weight == 8
    assert tally.arrivals_s[:3] == [0.0, 8.0, 16.0]
    assert (tally.completed, tally.span_s) == (300_000, 300_000.0)
    tally.add(RequestRecord("x", 5.0, 1, 1, None, None, outcome=Outcome.REJECTED))
    assert (tally.requests, tally.completed) == (300_001, 300_000)


def test_a_streamed_result_has_every_figure_of_a_kept_one() -> None:
    requests = list(generate("mixed", n=50, rate_rps=2.0, seed=1))
    engine, profile = EngineConfig(600, max_num_seqs=32), load_profile("h100-llama3.1-8b")
    kept = simulate(requests, resolve("lcf"), engine, profile)
    tally = RecordTally()
    for record in kept.records:
        tally.add(record)
    streamed = StreamedResult("lcf", [], kept.totals, kept.simulated_s, kept.wall_s, tally=tally)
    assert isinstance(streamed, RunResult)
    assert set(streamed.summary()) == set(kept.summary())
    assert streamed.arrival_sample == kept.arrival_sample


def test_requests_are_read_anew_each_time() -> None:
    streamed = StreamedRequests(lambda: generate("mixed", n=20, rate_rps=1.0, seed=1), 30, 16)
    assert len(streamed) == 0
    once, again = list(streamed), list(streamed)
    assert once == again
    assert len(streamed) == len(once) < 20
    assert streamed.unfit is not None
    assert streamed.unfit.left_out == 20 - len(once)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ("--trace", "mixed", "--rate", "1"),
            "expected a trace, found the generated workload synthetic:mixed",
        ),
        (("--trace", "sharegpt-lengths"), "state a rate"),
        (("--hours", "2"), "expected no --hours"),
        (("--html", "page.html"), "expected a run that keeps its requests"),
    ],
)
def test_what_cannot_be_streamed_is_said(
    arguments: tuple[str, ...], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["simulate", "--stream", "--strategy", "lcf", *arguments])
    assert done.exit_code == 2
    assert part in done.stderr


def test_a_broken_row_ends_the_run_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    row = '{"timestamp": %d, "input_length": 10, "output_length": %d}\n'
    path.write_text("".join(row % (1000 * k, 5 if k < 500 else -1) for k in range(600)))
    done = CliRunner().invoke(app, ["simulate", "--stream", "--strategy", "lcf", "--trace", str(path)])
    assert done.exit_code == 2
    assert "line 501, field 'output_length': expected a whole number" in done.stderr
    assert "Traceback" not in done.stderr
