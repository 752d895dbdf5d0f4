"""The session rate within a latency target: its search, its simulations, and the plan that follows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from bidkv.evaluation.latency_target import LatencyTarget
from bidkv.planning import session_target
from bidkv.planning.session_plan import plan_sessions, session_plan_text
from bidkv.planning.session_target import SessionCheck, check_rate, largest_rate, repeat_sessions
from bidkv.profiles import load_profile
from bidkv.protocol import Session, Turn
from bidkv.simulator import EngineConfig

_PROFILE = load_profile("h100-llama3.1-8b-async")
_ENGINE = EngineConfig(4000, max_num_seqs=64, enable_prefix_caching=True)


def _sessions(number: int) -> list[Session]:
    turns = (Turn(3000, 60, hash_ids=(1, 2)), *(Turn(200, 60, 1.0, hash_ids=(7,)),) * 3)
    return [Session(f"s{index}", turns) for index in range(number)]


def _answers(ttft_s: Callable[[float], float]) -> Callable[..., SessionCheck]:
    """Return a stand-in for a simulation whose first tokens take `ttft_s(rate)`."""

    def check(
        sessions: Any, order: Any, engine: Any, profile: Any, target: LatencyTarget, rate: float, seed: int
    ) -> SessionCheck:
        del order, engine, profile, seed
        assert 300 <= len(sessions) <= 3000
        assert target.ttft_s is not None
        return SessionCheck(rate, ttft_s(rate), 0.01, 20.0, False, ttft_s(rate) <= target.ttft_s)

    return check


@pytest.mark.parametrize("guess", [0.1, 0.7, 1.0, 5.0, 40.0])
def test_the_largest_rate_is_found_from_any_guess(monkeypatch: pytest.MonkeyPatch, guess: float) -> None:
    monkeypatch.setattr(session_target, "check_rate", _answers(lambda rate: rate))
    seen: list[SessionCheck] = []
    found = largest_rate(
        _sessions(3), "sessions", _ENGINE, _PROFILE, LatencyTarget(1.0),
        guess=guess, session_s=20.0, on_check=seen.append,
    )  # fmt: skip
    assert found is not None
    # With room below the bound of 1 s, which a rate of 1 would reach.
    assert 0.8 / 1.07 <= found.rate <= 0.8
    assert found.holds
    assert len(seen) <= 40


def test_a_target_without_room_is_kept_without_and_one_that_nothing_keeps_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find() -> SessionCheck | None:
        return largest_rate(
            _sessions(3), "sessions", _ENGINE, _PROFILE, LatencyTarget(1.0), guess=1.0, session_s=1.0
        )

    monkeypatch.setattr(session_target, "check_rate", _answers(lambda rate: 0.9 + rate / 10))
    found = find()
    assert found is not None
    assert 0.9 < found.rate <= 1.0
    monkeypatch.setattr(session_target, "check_rate", _answers(lambda _: 2.0))
    assert find() is None


def test_sessions_are_repeated_with_content_of_their_own() -> None:
    own = [Session("a", (Turn(1024, 5, hash_ids=(0, 9)),)), Session("b", (Turn(1024, 5, hash_ids=(0, 8)),))]
    many = repeat_sessions(own, 5)
    assert [s.session_id for s in many] == ["a", "b", "a~1", "b~1", "a~2"]
    assert all(s.turns[0].hash_ids[0] == 0 for s in many)  # what both begin with
    assert len({s.turns[0].hash_ids[1] for s in many}) == 5


def test_a_replica_keeps_a_target_when_idle_and_not_when_flooded() -> None:
    target = LatencyTarget(ttft_s=1.0)
    idle, flooded = (
        check_rate(repeat_sessions(_sessions(4), 60), "preempt-evict", _ENGINE, _PROFILE, target, rate, 1)
        for rate in (0.2, 20.0)
    )
    assert idle.holds
    assert not idle.is_growing
    assert 3.0 < idle.session_s < 8.0
    assert not flooded.holds
    assert flooded.is_growing
    assert flooded.ttft_p99_s > 2.0 * idle.ttft_p99_s
    assert flooded.tpot_s > idle.tpot_s


def test_replicas_and_users_follow_from_the_rate_within_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_target, "check_rate", _answers(lambda rate: rate))
    target = LatencyTarget(ttft_s=1.0)
    by_rate = plan_sessions(_sessions(5), "mine", _ENGINE, _PROFILE, target=target, session_rate=10.0)
    by_users = plan_sessions(_sessions(5), "mine", _ENGINE, _PROFILE, target=target, users=100, think_s=30.0)
    for of_rate, of_users in zip(by_rate.orders, by_users.orders, strict=True):
        assert of_rate.check is not None
        planned = 0.95 * of_rate.check.rate
        assert of_rate.replicas == math.ceil(10.0 / planned)
        assert of_users.users == int(planned * (20.0 + 30.0))
        assert of_users.replicas == math.ceil(100 / of_users.users)
    assert "within the target, simulated" in session_plan_text(by_rate)
    json.dumps(by_rate.as_dict(), allow_nan=False)


def test_a_plan_says_where_no_rate_keeps_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_target, "check_rate", _answers(lambda _: 2.0))
    plan = plan_sessions(_sessions(5), "mine", _ENGINE, _PROFILE, target=LatencyTarget(1.0), session_rate=1.0)
    assert [(o.check, o.replicas, o.users) for o in plan.orders] == [(None, None, 0)] * 2
    text = session_plan_text(plan)
    assert text.count("none") == 8
    json.dumps(plan.as_dict(), allow_nan=False)
