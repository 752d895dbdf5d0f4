"""Sessions in closed loop against two runs of a real H100."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate_sessions

DATA = Path(__file__).parents[1] / "data" / "h100" / "sessions"
CUT_S = 115.0


def read_sessions(path: Path) -> list[Session]:
    turns: dict[str, list[Turn]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turn = Turn(row["input_length"], row["output_length"], row.get("delay", 0.0) / 1e3)
        turns.setdefault(row["session_id"], []).append(turn)
    return [Session(session_id, tuple(listed)) for session_id, listed in turns.items()]


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return read_sessions(DATA / "swe12.sessions.jsonl")


@pytest.fixture(scope="module")
def simulated(sessions: list[Session]) -> RunResult:
    return simulate_sessions(
        sessions,
        SessionArrivals.at_concurrency(80, stagger_s=0.2),
        resolve("preempt-evict"),
        EngineConfig(20_000, max_num_seqs=256, max_num_batched_tokens=2048, enable_prefix_caching=True),
        load_profile("h100-llama3.1-8b-traffic"),
        duration_s=CUT_S,
    )


@pytest.mark.parametrize("name", ["own1", "own2"])
def test_a_recorded_run_is_repeated_within_4_percent(
    sessions: list[Session], simulated: RunResult, name: str
) -> None:
    with (DATA / f"swe12.{name}.rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (DATA / f"swe12.{name}.steps.csv").open(encoding="utf-8", newline="") as file:
        computed = sum(int(row["tokens"]) for row in csv.DictReader(file))
    turns = {session.session_id: session.turns for session in sessions}
    new_tokens = sum(turns["s" + row["sid"]][int(row["k"])].new_tokens + int(row["output"]) for row in rows)
    turn_s = sum(float(row["finish"]) - float(row["arrive"]) for row in rows) / len(rows)

    figures = simulated.summary()["sessions"]
    assert figures["turns"] == pytest.approx(len(rows), rel=0.04)
    assert figures["turn_s"]["mean"] == pytest.approx(turn_s, rel=0.04)
    assert figures["computed_per_new_token"] == pytest.approx(computed / new_tokens, rel=0.04)
    assert figures["lost_prefix_share"] > 0.6
