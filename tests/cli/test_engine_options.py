"""Engine options under vLLM's names, and what a trace carries that nobody reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app

URGENT_AND_IDLE = [
    {"timestamp": k, "input_length": 600, "output_length": 400, "priority": 10 * (k < 12)} for k in range(16)
]


def simulate(path: Path, rows: list[dict[str, Any]], *arguments: str) -> tuple[dict[str, Any], str]:
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ["simulate", "--trace", str(path), "--time-unit", "ms", "--json", "-", *arguments]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_priorities_that_nobody_reads_are_said_once(tmp_path: Path) -> None:
    small = ("--num-gpu-blocks", "300", "--strategy", "preempt-evict,lcf")
    plain, errors = simulate(tmp_path / "t", URGENT_AND_IDLE, *small)
    assert errors.count("2 priorities, which an engine that serves in order of arrival does not read") == 1
    assert plain["config"]["scheduling_policy"] == "fcfs"
    by_class, errors = simulate(tmp_path / "t", URGENT_AND_IDLE, *small, "--scheduling-policy", "priority")
    assert "note:" not in errors
    assert by_class["config"]["scheduling_policy"] == "priority"
    assert by_class["runs"][0]["ttft_s"] != plain["runs"][0]["ttft_s"]


def test_deadlines_that_nobody_reads_are_said_once(tmp_path: Path) -> None:
    rows = [{"timestamp": k, "input_length": 60, "output_length": 4, "deadline_ms": 900} for k in range(3)]
    _, errors = simulate(tmp_path / "t", rows, "--strategy", "preempt-evict")
    assert "3 requests have a deadline, which none of the strategies reads: --strategy on-time" in errors
    _, errors = simulate(tmp_path / "t", rows, "--strategy", "preempt-evict,on-time")
    assert "note:" not in errors


def test_a_long_prefill_leaves_room_for_the_others(tmp_path: Path) -> None:
    rows = [{"timestamp": 0, "input_length": 60_000, "output_length": 4}]
    rows += [{"timestamp": 10 * k, "input_length": 100, "output_length": 20} for k in range(1, 20)]
    wide = ("--num-gpu-blocks", "20000", "--strategy", "preempt-evict")
    plain, _ = simulate(tmp_path / "t", rows, *wide)
    bounded, _ = simulate(tmp_path / "t", rows, *wide, "--long-prefill-token-threshold", "512")
    assert bounded["runs"][0]["ttft_s"]["p50"] < 0.5 * plain["runs"][0]["ttft_s"]["p50"]


def test_the_longest_context_is_an_option(tmp_path: Path) -> None:
    rows = [{"timestamp": 0, "input_length": n, "output_length": 4} for n in (100, 5000)]
    run, _ = simulate(tmp_path / "t", rows, "--max-model-len", "4096", "--strategy", "preempt-evict")
    assert run["runs"][0]["completed"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scheduling-policy", "priority"),
        ("--enable-prefix-caching",),
        ("--long-prefill-token-threshold", "512"),
        ("--no-scheduler-reserve-full-isl",),
    ],
)
def test_the_simulated_sglang_has_none_of_them(arguments: tuple[str, ...]) -> None:
    words = ["simulate", "--engine", "sglang", "--strategy", "sglang-default", *arguments]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "the simulated SGLang has no such option" in done.stderr


def test_lost_prefixes_of_single_requests_are_not_counted_and_that_is_said(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 300 * k, "input_length": 1024, "output_length": 20, "hash_ids": [k % 3, 9 + k % 3]}
        for k in range(12)
    ]
    path = tmp_path / "t"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ["simulate", "--trace", str(path), "--strategy", "lcf", "--num-gpu-blocks", "100"]
    done = CliRunner().invoke(app, [*words, "--enable-prefix-caching"])
    assert done.exit_code == 0
    assert done.stdout.count("lost prefixes: not counted for single requests") == 1
    assert " lost" not in done.stdout.splitlines()[1]
    assert "lost prefixes" not in CliRunner().invoke(app, words).stdout
    run, _ = simulate(path, rows, "--strategy", "lcf", "--enable-prefix-caching")
    assert run["runs"][0]["lost_prefix_share"] is None
    assert run["runs"][0]["prefix_hit_rate"] > 0.5
