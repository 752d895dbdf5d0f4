"""The simulator against a recorded run of a real engine, whose steps no profile was fitted to."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate

RECORDED = Path(__file__).parent.parent / "data" / "h100"


def test_a_recorded_run_is_replayed_within_the_stated_error() -> None:
    with (RECORDED / "run_compiled.requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (RECORDED / "run_compiled.steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    requests = [
        WorkloadRequest(row["id"], float(row["arrival"]), int(row["prompt"]), int(row["output"]))
        for row in rows
    ]
    engine = EngineConfig(
        num_gpu_blocks=600,
        block_size=16,
        max_num_seqs=32,
        max_num_batched_tokens=2048,
        enable_prefix_caching=False,
    )
    replayed = simulate(
        requests, resolve("preempt-evict"), engine, load_profile("h100-llama3.1-8b")
    ).summary()

    finish_s = max(float(row["finish"]) for row in rows)
    throughput_rps = len(rows) / (finish_s - float(rows[0]["arrival"]))
    mean_e2e_s = sum(float(row["finish"]) - float(row["arrival"]) for row in rows) / len(rows)
    preemptions = sum(int(step["preempted"]) for step in steps)
    lost = sum(int(step["lost"]) for step in steps)
    recompute_tax = lost / sum(int(step["tokens"]) for step in steps)

    assert replayed["completed"] == len(rows)
    assert replayed["throughput_rps"] == pytest.approx(throughput_rps, rel=0.03)
    assert replayed["e2e_s"]["mean"] == pytest.approx(mean_e2e_s, rel=0.06)
    assert replayed["preemptions"] == pytest.approx(preemptions, rel=0.10)
    assert replayed["recompute_tax"] == pytest.approx(recompute_tax, abs=0.02)
