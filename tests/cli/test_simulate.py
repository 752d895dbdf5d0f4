"""`bidkv simulate`: its interface, its figures, and what it says about bad input."""

from __future__ import annotations

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
RUN_KEYS = {
    "strategy",
    "requests",
    "completed",
    "throughput_rps",
    "output_tokens_per_s",
    "ttft_s",
    "e2e_s",
    "tpot_s",
    "preemptions",
    "preempted_requests",
    "max_preemptions_of_one_request",
    "scheduled_tokens",
    "recomputed_tokens",
    "recompute_tax",
    "kv_utilization_mean",
    "prefix_hit_rate",
    "lost_prefix_tokens",
    "lost_prefix_share",
    "itl_s",
    "longest_gap_s",
    "sessions",
    "steps",
    "simulated_s",
    "wall_s",
}
SMALL = ["simulate", "--limit", "150", "--num-gpu-blocks", "500", "--strategy", "preempt-evict,lcf"]


def run(*arguments: str) -> Any:
    return RUNNER.invoke(app, list(arguments))


def simulated(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    """Three requests, the second longer than 20 blocks of 16 tokens hold."""
    rows = [(0, 40, 5), (100, 400, 5), (200, 50, 6)]
    file = tmp_path / "trace.jsonl"
    file.write_text(
        "".join(
            json.dumps({"timestamp": t, "input_length": p, "output_length": o}) + "\n" for t, p, o in rows
        ),
        encoding="utf-8",
    )
    return file


def test_json_has_the_promised_names_and_consistent_figures() -> None:
    document = simulated(*SMALL)
    assert set(document) == {"config", "runs"}
    assert [r["strategy"] for r in document["runs"]] == ["preempt-evict", "lcf"]
    for one in document["runs"]:
        assert set(one) == RUN_KEYS
        assert one["requests"] == one["completed"] == document["config"]["requests"]
        for latency in ("ttft_s", "e2e_s", "tpot_s"):
            assert set(one[latency]) == {"mean", "p50", "p90", "p99"}
            assert 0 < one[latency]["p50"] <= one[latency]["p90"] <= one[latency]["p99"]
        assert one["recompute_tax"] == pytest.approx(one["recomputed_tokens"] / one["scheduled_tokens"])
        assert 0 < one["kv_utilization_mean"] <= 1


def test_every_strategy_gets_the_identical_workload() -> None:
    runs = simulated(*SMALL, "--strategy", "preempt-evict,preempt-evict-sjf,lcf")["runs"]
    assert len({one["scheduled_tokens"] - one["recomputed_tokens"] for one in runs}) == 1


def test_the_same_command_gives_the_same_figures() -> None:
    first, second = simulated(*SMALL), simulated(*SMALL)
    for document in (first, second):
        for one in document["runs"]:
            del one["wall_s"]
    assert first == second


def test_the_seed_reaches_a_strategy_that_draws_at_random() -> None:
    command = ["simulate", "--limit", "300", "--num-gpu-blocks", "450", "--strategy", "static-random"]
    taxes = {
        seed: simulated(*command, "--seed", seed)["runs"][0]["recomputed_tokens"] for seed in ("0", "1", "2")
    }
    assert len(set(taxes.values())) > 1
    stated = simulated(*command[:-1], "static-random:seed=2", "--seed", "0")["runs"][0]
    assert stated["recomputed_tokens"] == taxes["2"]
    assert stated["strategy"] == "static-random:seed=2"


def test_requests_that_can_never_fit_are_reported_and_left_out(mooncake: Path) -> None:
    result = run("simulate", "--trace", str(mooncake), "--num-gpu-blocks", "21", "--json", "-")
    config = json.loads(result.stdout)["config"]
    assert (config["requests"], config["left_out"]) == (2, 1)
    assert "left out 1 of 3 requests" in result.stderr
    assert "needs 26 blocks of 16 tokens, and there are 20" in result.stderr


def test_a_request_that_fills_the_cache_exactly_is_kept(mooncake: Path) -> None:
    # 405 tokens need 26 blocks; one more is the engine's null block.
    assert (
        simulated("simulate", "--trace", str(mooncake), "--num-gpu-blocks", "27")["config"]["left_out"] == 0
    )


def test_synthetic_workloads_and_traces_of_lengths_take_their_arrivals_from_the_rate() -> None:
    for trace in ("mixed", "long_context", "sharegpt-lengths"):
        config = simulated(
            "simulate", "--trace", trace, "--rate", "3", "--limit", "40", "--num-gpu-blocks", "2000"
        )["config"]
        assert config["requests"] == 40
        assert config["arrival_rate_rps"] == pytest.approx(3, rel=0.5)


def test_figures_of_three_requests_that_never_meet(tmp_path: Path) -> None:
    file = tmp_path / "apart.jsonl"
    file.write_text(
        "".join(f'{{"timestamp":{t},"input_length":64,"output_length":10}}\n' for t in (0, 60_000, 120_000)),
        encoding="utf-8",
    )
    one = simulated("simulate", "--trace", str(file), "--strategy", "preempt-evict")["runs"][0]
    assert one["steps"] == 30
    assert one["scheduled_tokens"] == 3 * (64 + 9)
    assert one["preemptions"] == one["recomputed_tokens"] == 0
    assert one["e2e_s"]["p50"] == pytest.approx(one["e2e_s"]["p99"])
    assert one["throughput_rps"] == pytest.approx(3 / (120 + one["e2e_s"]["mean"]))


def test_sglang_schedules_otherwise_than_vllm_on_the_same_requests() -> None:
    arguments = [*SMALL[:-1], "preempt-evict,sglang_default"]
    own_options = {"vllm": [], "sglang": ["--clip-max-new-tokens", "16"]}
    by_engine = {name: simulated(*arguments, "--engine", name, *own) for name, own in own_options.items()}
    for engine, document in by_engine.items():
        assert document["config"]["engine"] == engine
        assert all(one["completed"] == document["config"]["requests"] for one in document["runs"])
    own_rule, same_as_policy = by_engine["sglang"]["runs"]
    assert own_rule["preemptions"] > 0
    assert own_rule["e2e_s"] == same_as_policy["e2e_s"]
    assert own_rule["e2e_s"] != by_engine["vllm"]["runs"][0]["e2e_s"]


def test_several_replicas_share_the_workload() -> None:
    fleet = ["--replicas", "3", "--router", "least-loaded"]
    document = simulated(*SMALL, "--rate", "12", *fleet)
    assert (document["config"]["replicas"], document["config"]["router"]) == (3, "least-loaded")
    for one in document["runs"]:
        assert set(one) == {*RUN_KEYS, "replicas"}
        assert (
            one["completed"] == document["config"]["requests"] == sum(r["requests"] for r in one["replicas"])
        )
        assert one["preemptions"] == sum(r["preemptions"] for r in one["replicas"])
        assert len(one["replicas"]) == 3
    alone = simulated(*SMALL, "--rate", "12")["runs"]
    for fleet_run, run_alone in zip(document["runs"], alone, strict=True):
        assert fleet_run["e2e_s"]["mean"] < run_alone["e2e_s"]["mean"]
    text = run(*SMALL, *fleet).stdout
    assert "500 KV blocks on each of 3 replicas (least-loaded)" in text
    assert "lcf, replica by replica" in text
    assert "\n2: " in text


def test_a_trace_can_be_made_longer() -> None:
    config = simulated(*SMALL, "--hours", "0.1", "--strategy", "preempt-evict")["config"]
    assert config["requests"] + config["left_out"] > 150
    assert config["requests"] / config["arrival_rate_rps"] == pytest.approx(360, rel=0.05)


def test_the_table_names_every_strategy_and_the_verdict_follows() -> None:
    result = run(*SMALL)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.startswith("preempt-evict ") for line in lines)
    assert any(line.startswith("lcf ") for line in lines)
    assert "One run per strategy" in " ".join(lines)


def test_files_are_written_where_they_were_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the [report] extra")
    figures, page = tmp_path / "new" / "figures.json", tmp_path / "other" / "page.html"
    result = run(*SMALL, "--json", str(figures), "--html", str(page))
    assert result.exit_code == 0, result.output
    assert len(json.loads(figures.read_text(encoding="utf-8"))["runs"]) == 2
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(page) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--strategy", "no-such"], ["--strategy", "no-such", "Available:", "lcf"]),
        (["--strategy", "lcf:nope=1"], ["--strategy", "nope=1"]),
        (["--strategy", " , "], ["--strategy", "an empty one"]),
        (["--strategy", "lcf,lcf"], ["--strategy", "twice"]),
        (["--profile", "no-such"], ["--profile", "no-such", "h100-llama3.1-8b"]),
        (["--trace", "no-such.csv"], ["--trace", "no-such.csv"]),
        (["--num-gpu-blocks", "1"], ["num_gpu_blocks", ">= 2"]),
        (["--watermark", "1.5"], ["watermark", "[0.0, 1.0)"]),
        (["--limit", "0"], ["limit", "at least 1"]),
        (["--num-gpu-blocks", "2"], ["--num-gpu-blocks", "no request"]),
        (["--trace", "mixed"], ["--rate", "'mixed'", "state a rate"]),
        (["--workload", "agents", "--rate", "2"], ["--rate", "--session-rate"]),
        (["--workload", "agents"], ["sessions", "has no start time"]),
        (
            ["--workload", "agents", "--session-rate", "1", "--sessions-at-once"],
            ["--session-rate and --sessions-at-once", "only one"],
        ),
        (["--workload", "agents", "--session-rate", "-1"], ["--session-rate", "above 0"]),
        (["--concurrent-sessions", "3"], ["azure-conv holds single requests"]),
        (["--duration-s", "0"], ["--duration-s", "above 0"]),
        (
            ["--workload", "agents", "--sessions-at-once", "--replicas", "2"],
            ["--replicas", "one replica"],
        ),
        (["--trace", "sharegpt-lengths"], ["--trace", "rate"]),
        (["--rate", "fast"], ["--rate", "number"]),
        (["--replicas", "0"], ["--replicas", "from 1 to 10,000"]),
        (["--router", "nearest"], ["--router", "round-robin", "prefix-aware"]),
        (["--hours", "-1"], ["--hours", "above 0"]),
        (
            ["--replicas", "2", "--decision-log", "log.jsonl", "--strategy", "lcf"],
            ["--decision-log", "one replica"],
        ),
        (["--html", "."], ["--html"]),
        (["--workload", "crowd"], ["--workload: workload 'crowd'"]),
        (["--workload", "agents:knees=3"], ["--workload: workload 'agents' has no parameter 'knees'"]),
        (["--workload", "mixed", "--trace", "mooncake-conv"], ["--trace and --workload", "only one"]),
        (["--workload", "agents", "--sessions", "0"], ["--sessions", "at least 1, got 0"]),
        (["--trace", "agents", "--stream"], ["--stream: expected single requests, found the sessions"]),
        (["--clip-max-new-tokens", "5"], ["--clip-max-new-tokens: the simulated vLLM has no such option"]),
        (["--engine", "sglang", "--watermark", "0.1"], ["--watermark", "SGLang has no such option"]),
        (["--engine", "sglang", "--max-num-batched-tokens", "10"], ["chunked_prefill_size", "multiple"]),
        (["--engine", "sglang", "--clip-max-new-tokens", "0"], ["clip_max_new_tokens", ">= 1"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], expected: list[str]) -> None:
    result = run("simulate", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    complaint = result.stderr.splitlines()[-1]
    for part in expected:
        assert part in complaint


def test_a_broken_row_is_named_by_file_line_field_and_expectation(tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(
        '{"timestamp":0,"input_length":5,"output_length":5}\n{"timestamp":1,"input_length":-3,"output_length":5}\n',
        encoding="utf-8",
    )
    result = run("simulate", "--trace", str(file))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    for part in (str(file), "line 2", "'input_length'", "expected a whole number", "-3"):
        assert part in line


def test_piped_json_is_all_that_stands_on_stdout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bidkv.cli", *SMALL, "--json", "-"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "60"},
    )
    assert len(json.loads(done.stdout)["runs"]) == 2
    assert done.stderr == ""


def test_scheduling_ahead_takes_more_steps_for_the_same_tokens(mooncake: Path) -> None:
    arguments = ("simulate", "--trace", str(mooncake), "--num-gpu-blocks", "60", "--strategy", "lcf")
    plain, ahead = (simulated(*arguments, *more) for more in ((), ("--async-scheduling",)))
    assert (plain["config"]["async_scheduling"], ahead["config"]["async_scheduling"]) == (False, True)
    assert ahead["runs"][0]["completed"] == plain["runs"][0]["completed"] == 3
    assert ahead["runs"][0]["steps"] > plain["runs"][0]["steps"]


SESSIONS = ["simulate", "--workload", "agents", "--sessions", "12", "--enable-prefix-caching"]


def test_sessions_run_in_closed_loop_under_every_kind_of_arrival() -> None:
    small = ["--num-gpu-blocks", "6000", "--strategy", "preempt-evict,fair"]
    turns = None
    for starts in (["--session-rate", "1"], ["--concurrent-sessions", "4"], ["--sessions-at-once"]):
        document = simulated(*SESSIONS, *small, *starts)
        config = document["config"]
        assert config["sessions"] + config["left_out"] == 12
        assert config["arrival_rate_rps"] is None
        assert [run["completed"] for run in document["runs"]] == [config["requests"]] * 2
        assert turns in (None, config["requests"])
        turns = config["requests"]


def test_sessions_are_compared_under_the_policies_made_for_them() -> None:
    document = simulated(*SESSIONS, "--sessions-at-once")
    assert document["config"]["strategies"] == ["preempt-evict", "fair", "sessions"]
    assert "fast" in simulated("simulate", "--limit", "20")["config"]["strategies"]


def test_a_run_that_is_cut_counts_only_what_is_complete() -> None:
    arguments = [*SESSIONS, "--concurrent-sessions", "6", "--strategy", "preempt-evict"]
    whole, cut = simulated(*arguments), simulated(*arguments, "--duration-s", "20")
    assert 0 < cut["runs"][0]["completed"] < whole["runs"][0]["completed"] == whole["config"]["requests"]


def test_the_size_of_the_engine_is_that_of_the_profiles_gpu_unless_stated() -> None:
    arguments = ("simulate", "--limit", "20", "--strategy", "lcf")
    config = simulated(*arguments)["config"]
    assert (config["num_gpu_blocks"], config["max_num_seqs"]) == (27949, 256)
    assert simulated(*arguments, "--block-size", "32")["config"]["num_gpu_blocks"] == 27949 // 2
    assert "27,949 KV blocks, 256 sequences, 2,048 tokens a step" in run(*arguments).stdout


def test_a_multi_turn_file_is_told_by_its_session_ids(tmp_path: Path) -> None:
    turns = [
        {"session_id": name, "input_length": 300, "output_length": 40, **start}
        for name, at in (("a", 0), ("b", 500))
        for start in ({"timestamp": at}, {"delay": 2000})
    ]
    file = tmp_path / "sessions.jsonl"
    file.write_text("".join(json.dumps(turn) + "\n" for turn in turns), encoding="utf-8")
    arguments = ("simulate", "--trace", str(file), "--strategy", "preempt-evict", "--enable-prefix-caching")
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    assert f"bidkv: {file}: mooncake-sessions, 2 sessions of 4 turns" in result.stderr
    (own,) = json.loads(result.stdout)["runs"]
    # A session lasts two answers and the 2 s between them.
    assert own["sessions"]["completed"] == 2
    assert own["sessions"]["turns"] == 4
    assert own["sessions"]["completion_s"]["mean"] > 2.0 + own["sessions"]["turn_s"]["mean"]
    assert own["sessions"]["prefix_hit_rate"] > 0.0
    one_by_one = simulated(*arguments, "--concurrent-sessions", "1")["runs"][0]
    assert one_by_one["simulated_s"] > own["simulated_s"]
    text = run(*arguments, "--sessions-at-once").stdout
    assert "2 sessions, 4 turns" in text
    assert "turns/s" in text


@pytest.mark.parametrize("command", ["simulate", "plan"])
@pytest.mark.parametrize("trace", ["azure-conv", "mixed"])
@pytest.mark.parametrize(("option", "value"), [("--rate", "-1"), ("--rate", "nan"), ("--limit", "0")])
def test_an_impossible_number_is_reported_under_its_own_option(
    command: str, trace: str, option: str, value: str
) -> None:
    result = run(command, "--trace", trace, option, value)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"bidkv: error: {option}: ")
    assert len(result.stderr.splitlines()) == 1


def test_sessions_without_prefix_caching_are_told_so() -> None:
    words = [
        "simulate",
        "--workload",
        "agents",
        "--sessions",
        "3",
        "--concurrent-sessions",
        "2",
        "--strategy",
        "fair",
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "prefix caching is off here and on in vLLM by default" in result.stderr
    said = " ".join(result.stdout.split())
    assert "or prefix caching is off: no turn ever found its past" in said
    assert "outgrow the memory" not in said
