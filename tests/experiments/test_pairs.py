"""Paired replays told as a table: every pair counted, a lone run without an interval, bad folders named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bidkv.evaluation.figures import E2E_MEAN
from bidkv.evaluation.statistics import compare_pairs
from bidkv.gpu_host.pairs import main, read_pairs
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.results import RunResult, encode
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads import generate


def spec(policy: str, pair: int) -> dict[str, object]:
    return {
        "name": f"{policy}-{pair}",
        "family": "mixed",
        "n": 60,
        "rate_rps": 6.0,
        "seed": pair,
        "policy": policy,
        "blocks": 600,
        "chunk": 2048,
        "pair": pair,
    }


def result(policy: str, seed: int) -> RunResult:
    requests = list(generate("mixed", n=60, rate_rps=6.0, seed=seed))
    engine = EngineConfig(num_gpu_blocks=600, max_num_seqs=32)
    return simulate(requests, resolve(policy), engine, load_profile("h100-llama3.1-8b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = [spec(policy, pair) for policy in ("preempt-evict", "lcf") for pair in (1, 2, 3)]
    plan += [spec("largest-first", 1), {**spec("lcf", 9), "name": "not-made"}]
    del (unpaired := dict(spec("lcf", 1)))["pair"]
    plan.append({**unpaired, "name": "unpaired"})
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    for row in plan:
        if row["name"] != "not-made":
            made = result(str(row["policy"]), int(str(row["seed"])))
            (tmp_path / f"{row['name']}.json").write_text(encode(made), encoding="utf-8")
    return tmp_path


def test_a_cell_pairs_what_was_run_on_the_same_requests(folder: Path) -> None:
    (cell,) = read_pairs(folder)
    assert {policy: sorted(runs) for policy, runs in cell.runs.items()} == {
        "preempt-evict": [1, 2, 3],
        "lcf": [1, 2, 3],
        "largest-first": [1],
    }
    ours, theirs = (
        [result(policy, seed).summary()["e2e_s"]["mean"] for seed in (1, 2, 3)]
        for policy in ("lcf", "preempt-evict")
    )
    assert cell.effect("lcf", E2E_MEAN) == compare_pairs(ours, theirs)


def test_the_table_has_a_row_for_every_policy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| workload | policy | pairs | e2e mean |")
    assert set(line) == set("| -")
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| mixed at 6/s, 600 blocks", "preempt-evict", "3"],
        ["| mixed at 6/s, 600 blocks", "lcf", "3"],
        ["| mixed at 6/s, 600 blocks", "largest-first", "1"],
    ]
    assert "(one pair)" in rows[2]
    assert " to " in rows[1]


def test_a_folder_without_a_plan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "plan.json" in capsys.readouterr().err
