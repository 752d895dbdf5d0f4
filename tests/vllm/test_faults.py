"""Everything goes wrong on a real engine: no request is lost, no output changes, the pool stays whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.fault_child import LOG_ROOM_BYTES, MODEL_LEN
from tests.vllm.harness import run_case
from tests.vllm.ours import run_ours

from bidkv.protocol.requests import WorkloadRequest

pytestmark = pytest.mark.vllm

FAULTS = {
    "policy raises",
    "policy garbage",
    "policy sleeps",
    "policy abstains",
    "policy shut-gate",
    "policy raises-on-events",
    "control file",
    "kill switch",
    "terminate",
    "abort of a running request",
    "abort of a waiting request",
}


@pytest.fixture(scope="module")
def count(campaign: bool) -> int:
    return 2000 if campaign else 100


@pytest.fixture(scope="module")
def report(model: Path, tmp_path_factory: pytest.TempPathFactory, count: int) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-m", "tests.vllm.fault_child", str(model), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200 + count * 2, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    served, given_up = len(content["disturbed"]["outputs"]), len(content["aborted"])
    print(
        f"\n{count} requests, {sum(content['faults'].values())} faults injected in "
        f"{content['disturbed']['steps']} steps ({content['faults']}); {served} completed, "
        f"{given_up} given up by their clients, {count - served - given_up} lost"
    )
    return content


@pytest.mark.timeout(5000)
def test_every_request_ends_with_its_output_or_was_given_up(report, count):
    for run in ("alone", "undisturbed"):
        assert set(report[run]["outputs"]) == {str(number) for number in range(count)}
    disturbed = report["disturbed"]["outputs"]
    assert set(disturbed) | set(report["aborted"]) == {str(number) for number in range(count)}
    assert not set(disturbed) & set(report["aborted"])


def test_outputs_are_those_of_the_undisturbed_engine(report):
    alone = report["alone"]["outputs"]
    assert report["undisturbed"]["outputs"] == alone
    disturbed = report["disturbed"]["outputs"]
    assert disturbed == {name: alone[name] for name in disturbed}
    assert {len(tokens) for tokens in alone.values()} > {
        30,
        40,
    }  # huge and absent caps end at the model's length


def test_every_fault_happened_and_was_counted(report):
    assert set(report["faults"]) == FAULTS
    counters = report["counters"]["disturbed"]
    assert counters["failures"] >= 3
    assert counters["kill_switch_activations"] >= report["faults"]["kill switch"]
    assert report["disturbed"]["exits"] >= 1
    assert counters["aborts"] == len(report["aborted"])
    assert counters["completions"] == len(report["disturbed"]["outputs"])
    undisturbed = report["counters"]["undisturbed"]
    assert undisturbed["failures"] == undisturbed["aborts"] == 0
    assert report["counters"]["alone"]["preemptions_by_engine"] > 0  # memory is short


@pytest.mark.parametrize("run", ["alone", "undisturbed", "disturbed", "after"])
def test_the_pool_is_whole(report, run):
    assert (report[run]["blocks_lost"], report[run]["left"]) == (0, 0)


def test_a_taken_port_and_a_full_disk_cost_metrics_and_log_but_no_request(report):
    assert not report["metrics_served"]
    before, after = report["log_bytes"]
    assert 0 < before < after <= before + LOG_ROOM_BYTES
    assert report["log_is_whole"]


def test_what_cannot_be_served_gets_the_engines_own_error(report):
    assert str(MODEL_LEN) in report["refused"]["prompt beyond the model"]
    assert "max_tokens" in report["refused"]["no tokens asked for"]


def test_the_engine_serves_on_afterwards(report):
    after = report["after"]["outputs"]
    assert after == {name: report["alone"]["outputs"][name] for name in after}
    assert len(after) == 20


@pytest.mark.parametrize("policy", ["preempt-evict", "fair", "fast", "lcf", "past-future"])
def test_a_cache_of_one_block_serves_one_request_after_another(policy):
    shape = EngineShape(num_blocks=2, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=16)
    requests = tuple(WorkloadRequest(f"r{i}", float(i // 3), 1 + i % 9, 1 + i % 7) for i in range(30))
    case = Case(shape, requests)
    steps, scheduler = run_ours(case, policy)
    assert sum(tokens for step in steps for _, tokens in step.scheduled) >= sum(
        r.prompt_tokens + r.output_tokens - 1 for r in requests
    )
    assert scheduler.bidkv.controller.counters.completions == 30
    assert scheduler.bidkv.controller.counters.failures == 0
    if policy == "preempt-evict":
        assert steps == run_case(case)


@pytest.mark.parametrize("policy", ["fair", "fast"])
def test_a_request_that_takes_the_whole_memory_is_served_among_others(policy):
    case = random_case(3)
    whole = (case.shape.num_blocks - 1) * case.shape.block_size
    requests = list(case.requests)
    requests[5] = replace(requests[5], prompt_tokens=whole - 20, output_tokens=20, max_tokens=20)
    _, scheduler = run_ours(replace(case, requests=tuple(requests)), policy)
    assert scheduler.bidkv.controller.counters.completions == len(requests)
    assert scheduler.bidkv.controller.counters.failures == 0
