"""The same sessions on a real engine (tiny model, CPU) and in the simulator find the same tokens cached."""

from __future__ import annotations

from random import Random

import pytest
from tests.engine_model import write_config
from tests.support import steady_profile

from bidkv.gpu_host.engine import build_engine
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.gpu_host.session_plan import SessionRun
from bidkv.gpu_host.sessions import run_sessions
from bidkv.policy import resolve
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate_sessions

pytestmark = pytest.mark.vllm

BLOCK_SIZE = 32
BLOCKS = 300


def make_sessions(count: int) -> list[Session]:
    """Sessions that share their first 64 tokens; some clients rewrite their past."""
    draw = Random(11)
    sessions = []
    for number in range(count):
        turns = [Turn(draw.randint(70, 150), draw.randint(3, 40), hash_ids=(1,))]
        context = turns[0].new_tokens + turns[0].output_tokens
        for _ in range(draw.randint(1, 4)):
            kept = draw.randint(0, context) if draw.random() < 0.2 else None
            turn = Turn(draw.randint(1, 90), draw.randint(3, 40), 0.01, kept_tokens=kept)
            turns.append(turn)
            context = (context if kept is None else kept) + turn.new_tokens + turn.output_tokens
        sessions.append(Session(f"s{number}", tuple(turns), chunk_tokens=64))
    return sessions


@pytest.fixture(scope="module", params=[False, True], ids=["synchronous", "asynchronous"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServedEngine:
    kind = "BidKVAsyncScheduler" if request.param else "BidKVScheduler"
    overrides = {
        "dtype": "float32",
        "block_size": BLOCK_SIZE,
        "max_model_len": 900,
        "num_gpu_blocks_override": BLOCKS,
        "gpu_memory_utilization": 0.3,
        "scheduler_cls": f"bidkv.adapters.vllm.{kind}",
        "async_scheduling": request.param,
        "enable_prefix_caching": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIDKV_STRATEGY", "preempt-evict")
        engine = build_engine(str(write_config(tmp_path_factory.mktemp("model"))), 16, 256, overrides)
        return ServedEngine(engine)


def count_hits(result: RunResult) -> dict[str, int]:
    return {record.request_id.rpartition("/")[2]: record.cached_tokens for record in result.records}


@pytest.mark.parametrize(
    ("blocks", "concurrent"), [(BLOCKS, 4), (40, 1)], ids=["room for all", "room for one"]
)
def test_every_turn_finds_what_the_simulator_says(
    served: ServedEngine, blocks: int, concurrent: int, note_figures
) -> None:
    """Where all fits, hits do not depend on time; where little fits, sessions go one after the other."""
    sessions = make_sessions(16)
    plan = SessionRun(
        f"run-{blocks}",
        "made",
        "preempt-evict",
        concurrent=concurrent,
        stagger_s=0.2,
        warm_up_s=0.0,
        window_s=120.0,
        blocks=blocks,
    )
    real = count_hits(run_sessions(served, plan, sessions))
    simulated = count_hits(
        simulate_sessions(
            sessions,
            SessionArrivals.at_concurrency(concurrent, stagger_s=0.2),
            resolve("preempt-evict"),
            EngineConfig(blocks, BLOCK_SIZE, 16, 256, max_model_len=900, enable_prefix_caching=True),
            steady_profile(0.01),
        )
    )
    assert len(simulated) == sum(len(session.turns) for session in sessions)
    assert real == simulated
    note_figures(f"{len(real)} turns on a real engine, {sum(real.values())} tokens found as simulated")
