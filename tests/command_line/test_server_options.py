"""Options of servers and files, declared once: simulate, plan, tournament and experiment take them alike."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app
from bidkv.cli.engine_options import EngineOptions
from bidkv.command_line.file_options import FileOptions
from bidkv.command_line.server_options import SchedulerOptions, SchedulingPolicyName
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_launch import server_arguments
from bidkv.experiments.store import Store
from bidkv.experiments.vllm.runner import VllmOptions, simulate_options
from bidkv.experiments.vllm.runner import main as experiment
from bidkv.simulator import EngineConfig
from bidkv.tournament import TournamentPlan
from bidkv.tournament.plan import memory_size

SWITCHES = [
    "--enable-prefix-caching",
    *("--watermark", "0.02"),
    "--async-scheduling",
    *("--scheduling-policy", "priority"),
    *("--long-prefill-token-threshold", "512"),
    "--no-scheduler-reserve-full-isl",
]
LIMITS = ["--block-size", "32", "--max-num-batched-tokens", "4096", "--max-model-len", "9000"]
ENGINE = {
    "block_size": 32,
    "max_num_batched_tokens": 4096,
    "max_model_len": 9000,
    "enable_prefix_caching": True,
    "watermark": 0.02,
    "async_scheduling": True,
    "scheduling_policy": "priority",
    "long_prefill_token_threshold": 512,
    "scheduler_reserve_full_isl": False,
}


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


def hashed(path: Path, size: int) -> Path:
    rows = []
    for k in range(30):
        prompt = 2500 + 397 * k % 3000
        ids = [*range(20), *range(100 * k, 100 * k + -(-prompt // size) - 20)]
        rows.append({"timestamp": 900 * k, "input_length": prompt, "output_length": 9, "hash_ids": ids})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_every_command_line_declares_the_same_options() -> None:
    switches = {each.name for each in fields(SchedulerOptions)}
    for kind in (EngineOptions, VllmOptions):
        assert switches <= {each.name for each in fields(kind)}
    assert {each.name for each in fields(FileOptions)} <= {each.name for each in fields(RunnerOptions)}


def test_simulate_takes_them() -> None:
    code, out, _ = run("simulate", "--limit", "20", "--strategy", "lcf", *SWITCHES, *LIMITS, "--json", "-")
    assert code == 0
    config = json.loads(out)["config"]
    assert ENGINE.items() <= config.items()


def test_names_of_sglang_mean_the_same() -> None:
    words = ["--page-size", "8", "--max-running-requests", "12", "--chunked-prefill-size", "640"]
    code, out, _ = run(
        "simulate", "--limit", "9", "--strategy", "lcf", "--engine", "sglang", *words, "--json", "-"
    )
    assert code == 0
    config = json.loads(out)["config"]
    assert (config["block_size"], config["max_num_seqs"], config["max_num_batched_tokens"]) == (8, 12, 640)


def test_plan_takes_them_and_says_what_the_closed_form_does_not_read() -> None:
    code, _, err = run("plan", "--limit", "200", "--rate", "2", *SWITCHES, "--num-gpu-blocks-override", "900")
    assert code in (0, 1)
    assert err.count("the closed form does not read") == 1
    assert "--watermark" in err
    assert "--simulate tests the plan with it" in err


def test_a_tournament_takes_them_at_every_size(tmp_path: Path) -> None:
    words = ["--strategy", "lcf", "--family", "mixed", "--load", "1.1", "--seeds", "1", "--requests", "40"]
    sizes = ["--size", "T,900/24", "--jobs", "1"]
    scores = []
    for switches in ([], ["--watermark", "0.3"]):
        folder = tmp_path / str(len(switches))
        target = str(tmp_path / "standings.json")
        code, _, err = run(
            "tournament", *words, *sizes, *switches, "--output-dir", str(folder), "--json", target
        )
        assert code == 0, err
        scores.append(json.loads(Path(target).read_text()))
        assert {path.parent.name for path in folder.rglob("*.json")} == {"T", "900x24"}
    assert scores[0] != scores[1]
    code, _, err = run("tournament", "--sessions", "--watermark", "0.3")
    assert code == 2
    assert "its machines have engines of their own, without watermark" in err


def test_a_tournaments_engine_is_that_of_its_size_and_options() -> None:
    plan = TournamentPlan.make(["lcf"], sizes=["27000/256"], engine={"watermark": 0.1})
    size = memory_size("27000/256")
    assert size.make_engine(plan.engine) == EngineConfig(
        num_gpu_blocks=27000, max_num_seqs=256, max_num_batched_tokens=2048, watermark=0.1
    )
    assert plan.requests_at("27000/256") == 4000
    with pytest.raises(ValueError, match="watermark must be in"):
        TournamentPlan.make(["lcf"], engine={"watermark": 2.0})
    with pytest.raises(ValueError, match="num_gpu_blocks must be an integer >= 2"):
        TournamentPlan.make(["lcf"], sizes=["1/4"])


def test_an_experiment_simulates_with_them_and_hands_them_to_a_server() -> None:
    given: Any = VllmOptions(
        strategies="lcf",
        output_dir=Path("x"),
        model="/model",
        num_gpu_blocks_override=700,
        enable_prefix_caching=True,
        scheduler_reserve_full_isl=False,
        scheduling_policy=SchedulingPolicyName.PRIORITY,
    )
    config = simulate_options(given)
    assert (config.num_gpu_blocks, config.enable_prefix_caching, config.reserve_full_isl) == (
        700,
        True,
        False,
    )
    assert config.schedules_by_priority
    options = {"model": "/model", **given.stated_switches(), "num_gpu_blocks_override": 700}
    words = server_arguments(options, "--model", lambda line: None)
    assert words[:2] == ["--model", "/model"]
    assert "--enable-prefix-caching" in words
    assert "--no-scheduler-reserve-full-isl" in words
    assert words[words.index("--scheduling-policy") + 1] == "priority"
    assert words[words.index("--num-gpu-blocks-override") + 1] == "700"


def test_an_experiment_reads_files_as_stated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = hashed(tmp_path / "trace.jsonl", 96)
    words = ["--engine", "sim", "--strategies", "lcf,lcf", "--workloads", str(file), "--rates", "2"]
    words += ["--runs", "1", "--requests", "20", "--jobs", "1", "--enable-prefix-caching"]
    assert experiment([*words, "--output-dir", str(tmp_path / "a")]) == 2
    assert "sizes of 96 fit the rows: state --tokens-per-hash-id" in capfd.readouterr().err
    assert experiment([*words, "--output-dir", str(tmp_path / "b"), "--tokens-per-hash-id", "96"]) == 0
    store = Store.open(tmp_path / "b")
    assert store.plan.options["trace_options"] == {"tokens_per_hash_id": 96}
    (group,) = [cells[0].group for cells in store.plan.groups()]
    assert len(store.requests(group)[0].hash_ids) == -(-2500 // 96)
    results = [run.result for run in store.runs()]
    # 20 ids of 96 tokens are shared by all: of whole blocks of 16, 120 of the 156 to 250 of a prompt.
    assert all(0.3 < (result.totals.prefix_hit_rate or 0.0) < 0.9 for result in results)
    assert experiment([*words, "--output-dir", str(tmp_path / "c"), "--time-unit", "h"]) == 2
    assert "--time-unit: expected one of s, ms, us, ns" in capfd.readouterr().err


def test_a_real_server_is_not_given_prompts_of_other_chunks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = hashed(tmp_path / "trace.jsonl", 64)
    words = ["--engine", "vllm", "--model", "/none", "--strategies", "lcf", "--workloads", str(file)]
    assert experiment([*words, "--rates", "2", "--output-dir", str(tmp_path / "a")]) == 2
    err = capfd.readouterr().err
    assert "has 64 tokens a hash id" in err
    assert f"bidkv trace convert {file} FILE writes such ids" in err
