"""Sessions replayed on one real engine (tiny model, CPU): closed loop, policies in turn, clean in between."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from tests.engine_model import write_config

from bidkv.gpu_host.engine import build_engine
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.gpu_host.session_plan import SessionRun, read_session_plan, take_share
from bidkv.gpu_host.sessions import make_missing_runs, run_sessions
from bidkv.protocol.sessions import Session, Turn
from bidkv.results import decode, encode

pytestmark = pytest.mark.vllm

BLOCKS = 60
SETTINGS = {"concurrent": 6, "stagger_s": 0.01, "warm_up_s": 0.3, "window_s": 3.0, "sessions": 2000}


def sessions(count: int = 2_000) -> list[Session]:
    draw = Random(7)
    return [
        Session(
            f"s{number}",
            tuple(
                Turn(
                    draw.randint(40, 120),
                    draw.randint(4, 12),
                    gap_s=0.0 if turn == 0 else 0.02,
                    hash_ids=(1,) if turn == 0 else (),
                )
                for turn in range(draw.randint(2, 5))
            ),
            chunk_tokens=40,
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedEngine:
    overrides = {
        "dtype": "float32",
        "block_size": 32,
        "max_model_len": 640,
        "num_gpu_blocks_override": BLOCKS,
        "gpu_memory_utilization": 0.3,
        "scheduler_cls": "bidkv.adapters.vllm.BidKVAsyncScheduler",
        "async_scheduling": True,
        "enable_prefix_caching": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIDKV_STRATEGY", "preempt-evict")
        engine = build_engine(str(write_config(tmp_path_factory.mktemp("model"))), 16, 256, overrides)
        yield ServedEngine(engine)


def test_a_run_closes_the_loop_and_leaves_the_engine_clean(served: ServedEngine) -> None:
    result = run_sessions(served, SessionRun("first", "made", "preempt-evict", **SETTINGS), sessions())
    by_session: dict[str, list[object]] = {}
    for record in result.records:
        by_session.setdefault(record.session_id, []).append(record)
    for records in by_session.values():
        assert [record.turn for record in records] == list(range(len(records)))
        for before, after in pairwise(records):
            # The next prompt is all before, the real answer included, and it arrives its gap later.
            assert after.prompt_tokens == before.prompt_tokens + before.output_tokens + after.new_tokens
            assert after.arrival_s == pytest.approx(before.finish_s + 0.02)
            assert after.finish_s > after.arrival_s
    # Some turn found its past: answers are in the prompts as the engine gave them.
    whole = [
        r for r in result.records if r.turn and r.cached_tokens >= (r.prompt_tokens - r.new_tokens) // 32 * 32
    ]
    assert whole
    assert result.totals.prefix_hit_tokens > 0
    assert result.notes["active"]
    window = result.notes["window"]
    assert 0.3 <= window["from_s"] < 0.6
    assert window["to_s"] == pytest.approx(3.3, abs=0.01)
    assert window["sessions"]["turns"] == sum(r.finish_s >= window["from_s"] for r in result.records)
    assert served.pool.get_num_free_blocks() == BLOCKS - 1
    assert decode(encode(result)).summary()["sessions"] == result.summary()["sessions"]


def test_missing_runs_are_made_in_order_until_time_is_short(served: ServedEngine, tmp_path: Path) -> None:
    runs = [
        SessionRun(
            f"run-{number}", "made", policy, pair=number, **{**SETTINGS, "window_s": 0.7, "told": told}
        )
        for number, (policy, told) in enumerate([("preempt-evict", True), ("fair", True), ("fair", False)])
    ]
    said: list[str] = []
    deadline_s = time.perf_counter() + 600.0
    assert make_missing_runs(served, runs[:2], lambda run: sessions(), tmp_path, deadline_s, said.append) == 0
    first = (tmp_path / "run-0.json").stat().st_mtime_ns
    assert make_missing_runs(served, runs, lambda run: sessions(), tmp_path, deadline_s, said.append) == 0
    assert (tmp_path / "run-0.json").stat().st_mtime_ns == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0.json", "run-1.json", "run-2.json"]
    assert [line.partition(":")[0] for line in said] == ["run-0", "run-1", "run-2"]
    late = SessionRun("late", "made", "fair", **SETTINGS)
    assert (
        make_missing_runs(served, [late], lambda run: sessions(), tmp_path, time.perf_counter(), said.append)
        == 1
    )
    assert "not started" in said[-1]


def test_a_plan_is_read_and_shared_by_pairs(tmp_path: Path) -> None:
    plan = [
        {"name": f"{name}-{pair}-{policy}", "workload": name, "policy": policy, "concurrent": 8, "pair": pair}
        for name in ("agents-20-turns", "chat")
        for pair in (1, 2)
        for policy in ("sessions", "preempt-evict")
    ]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    runs = read_session_plan(file)
    assert len(runs) == 8
    shares = [take_share(runs, number, 3) for number in (1, 2, 3)]
    assert [len(share) for share in shares] == [4, 2, 2]
    for share in shares:
        pairs = {(run.workload, run.pair) for run in share}
        assert len(share) == 2 * len(pairs)
    for broken in ([], [{}], [plan[0] | {"concurrent": 0}], [plan[0] | {"name": "../x"}], [plan[0], plan[0]]):
        file.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"plan\.json"):
            read_session_plan(file)
