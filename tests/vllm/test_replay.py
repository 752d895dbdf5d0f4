"""Paired replays on one real engine (tiny model, CPU): every run whole, the engine clean between two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine_model import write_config

from bidkv.calibration.replay_plan import make_run_requests
from bidkv.gpu_host.engine import build_engine
from bidkv.gpu_host.replay import Replayer
from bidkv.results import encode

pytestmark = pytest.mark.vllm

POLICIES = ("preempt-evict", "fair", "fast")
PLAN = [
    {
        "name": f"{policy}-{pair}",
        "family": "uniform",
        "n": 24,
        "rate_rps": 200.0,
        "seed": 5,
        "policy": policy,
        "blocks": 30,
        "chunk": 128,
        "pair": pair,
        "steps": pair == 1,
        "params": {"prompt_low": 20, "prompt_high": 200, "output_low": 20, "output_high": 120},
    }
    for pair in (1, 2)
    for policy in (POLICIES if pair == 1 else reversed(POLICIES))
]


@pytest.fixture(scope="module")
def replayer(tmp_path_factory: pytest.TempPathFactory) -> Replayer:
    overrides = {
        "dtype": "float32",
        "block_size": 32,
        "max_model_len": 640,
        "num_gpu_blocks_override": 40,
        "gpu_memory_utilization": 0.3,
        "scheduler_cls": "bidkv.adapters.vllm.BidKVAsyncScheduler",
        "async_scheduling": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIDKV_STRATEGY", "preempt-evict")
        engine = build_engine(str(write_config(tmp_path_factory.mktemp("model"))), 16, 128, overrides)
        yield Replayer(engine, seed=0)


def test_runs_of_a_plan_share_one_engine_and_leave_nothing_behind(replayer: Replayer, tmp_path: Path) -> None:
    for spec in PLAN:
        result = replayer.run(spec)
        requests = make_run_requests(spec)
        assert {record.request_id for record in result.completed} == {r.request_id for r in requests}
        assert result.totals.usable_blocks == 29
        assert result.notes["active"], result.notes
        assert result.totals.preemptions > 0, "without pressure a replay compares nothing"
        assert replayer.pool.get_num_free_blocks() == 39
        # Every step but the first, which comes with the first request, has a row.
        if spec["steps"]:
            assert replayer.step_log is not None
            assert result.totals.steps - 4 <= len(replayer.step_log) <= result.totals.steps
            decodes = [row for row in replayer.step_log if row["decode"] and not row["prefill"]]
            assert len(decodes) > len(replayer.step_log) / 2, "most steps are decodes, seen as such"
            assert sum(row["tokens"] for row in replayer.step_log) <= result.totals.scheduled_tokens
        (tmp_path / f"{spec['name']}.json").write_text(encode(result), encoding="utf-8")
    (tmp_path / "plan.json").write_text(json.dumps(PLAN), encoding="utf-8")
