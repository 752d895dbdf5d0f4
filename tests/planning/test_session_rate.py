"""Session rates in closed form: what they do at their ends, and beside the simulator."""

from __future__ import annotations

import pytest

from bidkv.planning.session_plan import plan_sessions, session_plan_text
from bidkv.planning.session_rate import SessionReplica, session_rates, visible_growth_rate
from bidkv.planning.session_traffic import SessionTraffic
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol import Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, simulate_sessions
from bidkv.stability import ReplicaShape
from bidkv.workloads.session_families import SESSION_FAMILIES

_PROFILE = load_profile("h100-llama3.1-8b-async")
_SHAPE, _ENGINE = ReplicaShape(13_973), EngineConfig(13_974, max_num_seqs=256)


def _uniform(gap_s: float, number: int = 20) -> list[Session]:
    turns = (Turn(6000, 100), *(Turn(200, 100, gap_s),) * 7)
    return [Session(f"s{index}", turns) for index in range(number)]


def test_traffic_counts_what_a_session_brings_again() -> None:
    traffic = SessionTraffic.of(_uniform(2.0))
    assert traffic.turns == 8
    assert traffic.new_tokens == 6000 + 7 * 200
    assert traffic.past_tokens == sum(6100 + 300 * turn for turn in range(7))
    assert traffic.gaps_s == 14.0
    assert traffic.final_context == 6100 + 7 * 300
    assert traffic.lost_tokens(1.9) == traffic.past_tokens
    assert traffic.lost_tokens(2.1) == 0.0
    assert traffic.held_token_s(1.0) == traffic.past_tokens
    assert traffic.held_token_s(5.0) == 2.0 * traffic.past_tokens
    assert traffic.cached_share(5.0) == pytest.approx(traffic.past_tokens / (traffic.past_tokens + 7400))


def test_shared_content_is_held_once_and_never_lost() -> None:
    turns = (Turn(4096, 100, hash_ids=tuple(range(8))), Turn(200, 100, 2.0))
    traffic = SessionTraffic.of([Session(f"s{index}", turns) for index in range(10)])
    assert traffic.shared_tokens == 4096
    assert traffic.final_context == 100 + 300
    # Computed once, by the first of ten sessions.
    assert traffic.new_tokens == pytest.approx(200 + (4096 + 9) / 10, abs=1.0)
    assert traffic.lost_tokens(0.0) == 100


def test_more_memory_and_shorter_gaps_never_cost_sessions() -> None:
    rates = [
        session_rates(SessionTraffic.of(_uniform(gap_s)), ReplicaShape(blocks), _PROFILE)
        for gap_s, blocks in ((4.0, 4000), (4.0, 8000), (1.0, 8000))
    ]
    assert rates[0].own.rate <= rates[1].own.rate <= rates[2].own.rate
    assert rates[0].kept.rate <= rates[1].kept.rate <= rates[2].kept.rate
    for found in rates:
        assert 0.95 * found.collapsed <= found.own.rate <= found.all_cached * 1.01
        assert found.kept.rate <= found.all_cached * 1.01
        assert all(option.own >= 0.99 * found.own.rate for option in found.options)


def test_endless_memory_keeps_everything_under_both_orders() -> None:
    rates = session_rates(SessionTraffic.of(_uniform(2.0)), ReplicaShape(10**7), _PROFILE)
    assert rates.own.rate == pytest.approx(rates.kept.rate, rel=0.02)
    assert rates.own.cached_share == pytest.approx(rates.kept.cached_share)


@pytest.mark.parametrize("family", ["agents-8-turns", "slow-tools"])
@pytest.mark.parametrize("order", ["preempt-evict", "sessions"])
def test_queues_stay_below_the_planned_rate_and_grow_above_it(family: str, order: str) -> None:
    make = SESSION_FAMILIES[family]
    rates = session_rates(SessionTraffic.of(make(n=300, seed=1)), _SHAPE, _PROFILE)
    planned = (rates.own if order == "preempt-evict" else rates.kept).rate
    engine = EngineConfig(
        num_gpu_blocks=13_974, max_num_seqs=256, enable_prefix_caching=True, async_scheduling=True
    )
    window_s = 250.0 / planned
    done = []
    for share in (0.8, 1.6):
        sessions = make(n=round(250 * share), seed=1)
        result = simulate_sessions(
            sessions,
            SessionArrivals.at_rate(share * planned, seed=1),
            resolve(order),
            engine,
            _PROFILE,
            timeline_points=2,
            duration_s=window_s,
        )
        ends = [r.finish_s for r in result.records if r.ends_session and r.finish_s is not None]
        done.append(sum(end > window_s / 2 for end in ends) / (planned * window_s / 2))
    assert done[0] > 0.7
    # However many more arrive, no more than about the planned rate leave. Where gaps are long the policy
    # drops some sessions while others stay, which the plan does not know of: it is low by up to a quarter.
    assert done[1] < (1.25 if (family, order) == ("slow-tools", "sessions") else 1.15)


def test_growth_shows_later_the_shorter_the_window() -> None:
    assert visible_growth_rate(1.0, 1e6) == pytest.approx(1.0 / 0.9)
    assert visible_growth_rate(0.1, 12_000.0) == pytest.approx(0.1 / 0.9)
    assert visible_growth_rate(0.1, 1200.0) > 0.11 / 0.9


def test_a_plan_for_users_is_consistent_with_little() -> None:
    sessions = _uniform(5.0)
    plan = plan_sessions(sessions, "mine", _ENGINE, _PROFILE, users=100, think_s=30.0)
    for order in plan.orders:
        planned = plan.target_utilization * order.sustainable
        assert order.users == pytest.approx(planned * (order.session_s + 30.0), abs=1.0)
        assert order.replicas == -(-100 // order.users)
    text = session_plan_text(plan)
    assert "100 users at once" in text
    assert "offloaded to the host" in text
    by_rate = plan_sessions(sessions, "mine", _ENGINE, _PROFILE, session_rate=1.0)
    assert by_rate.orders[0].replicas == -(-1.0 // (0.8 * by_rate.orders[0].sustainable))
    assert plan.as_dict()["traffic"]["turns"] == 8


def test_a_session_takes_longer_the_fuller_its_replica() -> None:
    step_time = _PROFILE.for_engine(256, 2048).step_s
    replica = SessionReplica(SessionTraffic.of(_uniform(1.0)), _SHAPE, step_time)
    kept = replica.kept()
    idle, busy = (replica.session_s(kept, share * kept.rate) for share in (0.1, 0.9))
    assert 7.0 < idle < busy


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target_utilization": 0.0}, "target_utilization"), ({"think_s": -1.0}, "think_s")],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_sessions(_uniform(1.0), "mine", _ENGINE, _PROFILE, **options)
    with pytest.raises(ValueError, match="at least one session"):
        SessionTraffic.of([])
