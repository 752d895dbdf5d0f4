"""Whether old sessions go first: what their numbers of turns say, and what comes of it."""

from __future__ import annotations

from random import Random

import pytest

from bidkv.policy.own.sessions import Sessions
from bidkv.policy.own.sessions_lengths import TurnCounts
from bidkv.profiles import load_profile
from bidkv.protocol.sessions import SessionArrivals
from bidkv.simulator import EngineConfig, simulate_sessions
from bidkv.workloads.session_families import SESSION_FAMILIES


def _difference(counts: list[int]) -> float:
    turns = TurnCounts()
    for count in counts:
        turns.learn(count)
    return turns.difference


def test_sessions_of_one_length_are_alike() -> None:
    assert _difference([20] * 100) == 0.0


def test_few_ended_sessions_say_nothing() -> None:
    assert _difference([1, 100] * 7) == 0.0
    assert _difference([1, 100] * 9) == 1.0


def test_geometric_lengths_differ_widely_and_lognormal_ones_of_agents_do_not() -> None:
    chance = Random(1)
    geometric = [1 + int(chance.expovariate(0.1)) for _ in range(400)]
    agents = [max(1, round(chance.lognormvariate(3.0, 0.5))) for _ in range(400)]
    assert _difference(geometric) == 1.0
    assert _difference(agents) == 0.0


def test_the_newer_sessions_count() -> None:
    assert _difference([1, 100] * 200 + [20] * 3000) == pytest.approx(0.0, abs=0.05)


class _OldSessionsFirst(Sessions):
    """Takes all sessions for alike."""

    def on_session_end(self, session, engine):  # type: ignore[no-untyped-def]
        super().on_session_end(session, engine)
        self._turn_counts = TurnCounts()


def _mean_completion_s(policy: Sessions, family: str, number: int, rate: float) -> float:
    config = EngineConfig(num_gpu_blocks=2500, enable_prefix_caching=True, async_scheduling=True)
    sessions = SESSION_FAMILIES[family](number, 1)
    arrivals = SessionArrivals.at_rate(rate, seed=1)
    result = simulate_sessions(
        sessions, arrivals, policy, config, load_profile("h100-llama3.1-8b-async"), timeline_points=2
    )
    mean_s: float = result.summary()["sessions"]["completion_s"]["mean"]
    return mean_s


def test_short_chats_need_not_wait_for_long_ones() -> None:
    alike = _mean_completion_s(_OldSessionsFirst(), "chat", 1500, 4.0)
    assert _mean_completion_s(Sessions(), "chat", 1500, 4.0) < 0.95 * alike


def test_agents_that_came_first_still_end_first() -> None:
    alike = _mean_completion_s(_OldSessionsFirst(), "agents-8-turns", 100, 0.2)
    assert _mean_completion_s(Sessions(), "agents-8-turns", 100, 0.2) == pytest.approx(alike, rel=0.01)
