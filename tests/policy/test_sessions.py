"""The `sessions` policy: `fair` without sessions; with them, who enters and which session is dropped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from tests.support import steady_profile, workloads

from bidkv.policy import resolve
from bidkv.policy.own.sessions import Sessions
from bidkv.profiles import load_profile
from bidkv.protocol import Session, SessionArrivals, Turn, WorkloadRequest
from bidkv.simulator import EngineConfig, simulate, simulate_sessions
from bidkv.simulator.state import EngineState


def _lives(records: object) -> list[tuple[object, ...]]:
    return [
        (r.request_id, r.first_token_s, r.finish_s, r.preemptions, r.outcome)  # type: ignore[attr-defined]
        for r in records  # type: ignore[attr-defined]
    ]


@given(requests=workloads(max_requests=20))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("caching", [False, True])
def test_is_fair_without_sessions(caching: bool, requests: list[WorkloadRequest]) -> None:
    config = EngineConfig(num_gpu_blocks=30, block_size=4, enable_prefix_caching=caching, max_model_len=110)
    results = [
        simulate(requests, resolve(name), config, steady_profile(), backend="python")
        for name in ("fair", "sessions")
    ]
    assert _lives(results[0].records) == _lives(results[1].records)
    assert results[0].totals == results[1].totals


def _agents(
    count: int, turns: int, *, first: int = 4000, new: int = 200, gap_s: float = 3.0
) -> list[Session]:
    return [
        Session(
            f"s{number}",
            tuple(Turn(200 if turn else 6000, 100, gap_s if turn else 0.0) for turn in range(turns)),
        )
        for number in range(count)
    ]


_PROFILE = load_profile("h100-llama3.1-8b-traffic")
_CONFIG = EngineConfig(
    num_gpu_blocks=6001, block_size=16, max_num_batched_tokens=2048, enable_prefix_caching=True
)


def test_keeps_residents_where_the_engine_thrashes() -> None:
    arrivals = SessionArrivals.at_once()
    own, ours = (
        simulate_sessions(_agents(20, 8), arrivals, resolve(name), _CONFIG, _PROFILE)
        for name in ("preempt-evict", "sessions")
    )
    assert ours.notes["control"]["session_failures"] == ours.notes["control"]["failures"] == 0
    assert ours.notes["control"]["completions"] == 160
    assert ours.totals.scheduled_tokens < 0.7 * own.totals.scheduled_tokens


def test_is_fair_where_a_lost_past_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a KV connector that brings every past back: nobody waits for room, and nothing is dropped."""
    monkeypatch.setattr(EngineState, "lost_past_price", 0.1)
    fair, ours = (
        simulate_sessions(
            _agents(20, 8),
            SessionArrivals.at_once(),
            resolve(name),
            _CONFIG,
            _PROFILE,
            backend="python",
            tells_ends=False,  # blocks of a session that is told to be over are reused first, here too
        )
        for name in ("fair", "sessions")
    )
    assert _lives(ours.records) == _lives(fair.records)
    assert ours.notes["control"]["session_drops"] == ours.notes["control"]["failures"] == 0


def test_the_oldest_session_is_first_among_cold_ones() -> None:
    result = simulate_sessions(
        _agents(20, 3), SessionArrivals.at_concurrency(20, stagger_s=0.01), Sessions(), _CONFIG,
        _PROFILE,
    )  # fmt: skip
    first = {r.request_id: r.first_token_s for r in result.records if r.request_id.endswith("#0")}
    times = [first[f"s{number}#0"] for number in range(20)]
    assert times == sorted(times)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be >= 1, got 0"),
        ({"growth": -0.5}, "growth must be >= 0, got -0.5"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sessions(**options)  # type: ignore[arg-type]
