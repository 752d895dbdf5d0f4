"""What a decision log tells of a session: why its turns waited, and why its KV was dropped."""

from __future__ import annotations

from pathlib import Path

from bidkv.observability.decision_log import DecisionLog
from bidkv.observability.log_lines import Preemption, SessionDrop, SessionTurn, SessionWait
from bidkv.observability.log_reader import read_log
from bidkv.observability.session_story import read_session, tell_session
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol import Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, simulate_sessions


def test_the_log_tells_every_turn_and_every_drop(tmp_path: Path) -> None:
    sessions = [
        Session(f"s{n}", tuple(Turn(200 if t else 6000, 100, 1.0 if t else 0.0) for t in range(6)))
        for n in range(40)
    ]
    log = DecisionLog(tmp_path / "log")
    result = simulate_sessions(
        sessions,
        SessionArrivals.at_concurrency(40, stagger_s=0.05),
        resolve("sessions"),
        EngineConfig(num_gpu_blocks=6001, enable_prefix_caching=True),
        load_profile("h100-llama3.1-8b-traffic"),
        observer=log,
    )
    log.close()
    lines = list(read_log(tmp_path / "log"))
    turns = [line for line in lines if isinstance(line, SessionTurn)]
    drops = [line for line in lines if isinstance(line, SessionDrop)]
    assert len(turns) == 240
    assert len(drops) == result.notes["control"]["session_drops"] > 0
    waits = [line for line in lines if isinstance(line, SessionWait)]
    entered = {turn.request_id: turn for turn in turns}
    preempted = {line.request_id for line in lines if isinstance(line, Preemption)}
    cold = [wait for wait in waits if wait.why.startswith("cold: ")]
    assert len({int(wait.time_s) for wait in cold}) > 20
    for wait in waits:
        turn = entered[wait.request_id]
        assert wait.session_id == turn.session_id
        if wait.time_s > turn.time_s:  # it waits again
            assert wait.request_id in preempted
            continue
        assert 0.0 <= wait.waited_s <= turn.waited_s + 1e-5
    assert any("other cold turns are before it" in wait.why for wait in cold)
    beside = next(wait for wait in cold if "resident sessions" in wait.why)
    told = tell_session(read_session(lines, beside.session_id))
    assert any(f"has waited {beside.waited_s:.3f} s; cold: needs" in text for text in told)
    dropped = read_session(lines, drops[0].session_id)
    story = tell_session(dropped)
    assert len(story) == len(dropped) >= 7
    entered_first = next(text for text in story if "waited" not in text)
    assert "cold: the session is new and needed room for 6000 tokens" in entered_first
    place = dropped.index(drops[0])
    assert "dropped after" in story[place]
    assert "index_per_s" in story[place]
    told = next(
        number for number, line in enumerate(dropped) if isinstance(line, SessionTurn) and number > place
    )
    last = max(line.time_s for line in dropped[:told] if isinstance(line, SessionDrop))
    assert "resident: " in story[told] or f"dropped at {last:.3f} s" in story[told]
    assert any(" blocks of " in text for text in story)
    assert all(0 < line.dropped_blocks <= line.exclusive_blocks for line in drops)
    assert any("resident: " in text for text in story)
    assert read_session(lines, "nobody") == []
