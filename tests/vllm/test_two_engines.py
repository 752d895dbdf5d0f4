"""Two real engines under one environment: in one process, and as the data-parallel ranks of one server.

Only with `--campaign`: on a busy machine a server of two engines takes minutes to start.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from tests.vllm.exports import count_decisions, read_metrics
from tests.vllm.test_server import COUNT, FLAGS, Server, answer_alone

pytestmark = [pytest.mark.vllm, pytest.mark.campaign, pytest.mark.timeout(900)]


@pytest.mark.parametrize("policy", ["fair", "fast"])
def test_two_engines_of_one_process(policy, model, tmp_path, free_port_pair):
    """The second preempts, the first does not; outputs, ports and logs are their own."""
    report, log = tmp_path / "report.json", tmp_path / "decisions.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.two_engines_child", str(model), "200", str(report)],
        env=os.environ
        | {
            "BIDKV_STRATEGY": policy,
            "BIDKV_METRICS_PORT": str(free_port_pair),
            "BIDKV_DECISION_LOG": str(log),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["equal"]
    assert found["free"] == [399, 59]
    first, second = found["metrics"]
    assert [first["bidkv_engine_number"], second["bidkv_engine_number"]] == [0, 1]
    assert first["bidkv_completions_total"] == second["bidkv_completions_total"] == 200
    assert first["bidkv_preemptions_by_policy_total"] == 0
    assert second["bidkv_preemptions_by_policy_total"] >= 5
    assert first["bidkv_failures_total"] == second["bidkv_failures_total"] == 0
    assert count_decisions(log) == first["bidkv_decisions_total"]
    assert count_decisions(log.with_suffix(".rank1.jsonl")) == second["bidkv_decisions_total"] > 0


def test_data_parallel_engines_of_one_server(model, tmp_path, free_port_pair):
    """Each has its port and log; one control file steers both; outputs are those of an engine alone."""
    log = tmp_path / "decisions.jsonl"
    server = Server(
        model,
        tmp_path,
        flags=[*FLAGS, "--data-parallel-size", "2"],
        BIDKV_STRATEGY="fair",
        BIDKV_METRICS_PORT=str(free_port_pair),
        BIDKV_DECISION_LOG=str(log),
    )

    def read() -> list[dict[str, float]]:
        return [read_metrics(free_port_pair + number) for number in range(2)]

    server.start(limit_s=600)
    try:
        expected = answer_alone(model, tmp_path)
        assert asyncio.run(server.serve_all()) == expected
        found = read()
        assert [each["bidkv_engine_number"] for each in found] == [0, 1]
        assert sum(each["bidkv_completions_total"] for each in found) == COUNT
        for each in found:
            assert each["bidkv_preemptions_by_policy_total"] >= 3
            assert each["bidkv_preemptions_by_engine_total"] == each["bidkv_failures_total"] == 0
            assert each["bidkv_free_blocks"] == each["bidkv_total_blocks"] == 59
        logged = [count_decisions(log), count_decisions(log.with_suffix(".rank1.jsonl"))]
        assert logged == [each["bidkv_decisions_total"] for each in found]

        server.command("off")
        assert asyncio.run(server.serve_all()) == expected
        for before, after in zip(found, read(), strict=True):
            assert after["bidkv_killed"] == 1
            assert after["bidkv_preemptions_by_engine_total"] > 0
            assert after["bidkv_policy_active"] == 0
            assert after["bidkv_failures_total"] == 0
            assert after["bidkv_completions_total"] > before["bidkv_completions_total"]
    finally:
        server.stop()
