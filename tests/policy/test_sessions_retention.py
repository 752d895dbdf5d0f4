"""Gaps, retention indices and the order of idle sessions that the `sessions` policy learns."""

from __future__ import annotations

from random import Random

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy.own.sessions_idle import IdleSessions, gap_kind
from bidkv.policy.own.sessions_prices import StepCosts
from bidkv.policy.own.sessions_retention import RetentionIndices, bucket_for
from bidkv.protocol import SessionView


class View:
    """A session with the figures that the order of idle sessions reads."""

    def __init__(self, name: str, *, priority: int = 0, weight: float = 1.0) -> None:
        self.session_id = name
        self.priority = priority
        self.weight = weight
        self.gap_hint_s: float | None = None


def _view(name: str, *, priority: int = 0, weight: float = 1.0) -> SessionView:
    return View(name, priority=priority, weight=weight)  # type: ignore[return-value]


def _learn(retention: RetentionIndices, gaps: list[float], kind: object = "k") -> float:
    now_s = 0.0
    for gap_s in gaps:
        retention.start(kind, now_s)
        retention.stop(kind, now_s, now_s + gap_s)
        now_s += gap_s + 1.0
    return now_s


@pytest.mark.parametrize(
    ("idle_s", "bucket"),
    [(0.0, 0), (0.0078, 0), (0.0079, 1), (1.0, 15), (1.5, 16), (511.0, 32), (512.0, 33), (1e9, 33)],
)
def test_buckets(idle_s: float, bucket: int) -> None:
    assert bucket_for(idle_s) == bucket


def test_an_index_is_about_one_over_a_steady_gap() -> None:
    retention = RetentionIndices()
    now_s = _learn(retention, [10.0] * 400)
    assert retention.index("k", 0.0, now_s) == pytest.approx(0.1, rel=0.3)
    assert retention.index("k", 30.0, now_s) < 0.02  # past the gap that everyone has
    assert retention.index("k", 8.0, now_s) > 2 * retention.index("k", 0.0, now_s)  # nearly back


def test_heavy_tails_lower_the_index_with_time() -> None:
    chance = Random(1)
    retention = RetentionIndices()
    now_s = _learn(retention, [chance.lognormvariate(0.0, 2.0) for _ in range(500)])
    fresh, old, older = (retention.index("k", idle_s, now_s) for idle_s in (0.0, 20.0, 200.0))
    assert fresh > 3 * old > 3 * older


def test_ends_that_nobody_tells_lower_the_index() -> None:
    told, untold = RetentionIndices(), RetentionIndices()
    now_s = _learn(told, [2.0] * 200)
    for number in range(200):
        untold.start("k", number * 3.0)
        if number % 2:
            untold.stop("k", number * 3.0, number * 3.0 + 2.0)
    assert untold.index("k", 20.0, now_s) < 0.05
    assert untold.index("k", 0.0, now_s) < 0.9 * told.index("k", 0.0, now_s)


def test_a_class_learns_for_itself() -> None:
    retention = RetentionIndices()
    now_s = _learn(retention, [1.0] * 100, "tool")
    now_s += _learn(retention, [60.0] * 100, "human")
    assert retention.index("tool", 0.0, now_s) > 5 * retention.index("human", 0.0, now_s)


def test_kinds_follow_the_hint_and_else_the_last_gap() -> None:
    session = View("a")
    assert gap_kind(session, None) == "first"  # type: ignore[arg-type]
    assert gap_kind(session, 0.5) != gap_kind(session, 30.0)  # type: ignore[arg-type]
    session.gap_hint_s = 8.0
    assert gap_kind(session, 0.5) == gap_kind(session, 30.0) == ("hint", 3)  # type: ignore[arg-type]


def test_the_least_important_goes_first_then_the_lowest_index() -> None:
    retention = RetentionIndices()
    now_s = _learn(retention, [2.0] * 200)
    idle = IdleSessions(retention)
    sessions = {
        "old": _view("old"),
        "fresh": _view("fresh"),
        "heavy": _view("heavy", weight=8.0),
        "minor": _view("minor", priority=5),
    }
    for name, idle_s in (("old", 30.0), ("fresh", 0.5), ("heavy", 0.5), ("minor", 0.5)):
        idle.add(sessions[name], "k", now_s - idle_s)
    assert [session.session_id for _, session in idle.ascending(now_s)] == ["minor", "old", "fresh", "heavy"]
    indices = [index for index, _ in idle.ascending(now_s)][1:]
    assert indices == sorted(indices)
    assert idle.index(sessions["heavy"], now_s) == 8 * idle.index(sessions["fresh"], now_s)
    idle.discard(sessions["old"])
    idle.discard(sessions["old"])
    assert len(idle) == 3


def test_every_idle_session_is_yielded_once() -> None:
    chance = Random(3)
    retention = RetentionIndices()
    now_s = _learn(retention, [chance.lognormvariate(1.0, 1.5) for _ in range(300)])
    idle = IdleSessions(retention)
    views = [_view(f"s{n}", weight=chance.choice([1.0, 2.0])) for n in range(200)]
    for view in views:
        idle.add(
            view, chance.choice(["k", "other"]), now_s - chance.choice([0.0, 1.0, chance.uniform(0, 2000)])
        )
    listed = [session.session_id for _, session in idle.ascending(now_s)]
    assert sorted(listed) == sorted(view.session_id for view in views)


@pytest.mark.parametrize("ahead", [False, True])
def test_step_costs_are_told_apart(ahead: bool) -> None:
    """Also where a step's tokens are counted one step before its time has passed."""
    chance = Random(5)
    costs, engine = StepCosts(), FakeEngine(num_blocks=20_000, free_blocks=10_000)
    engine.running = [FakeRequest("r")]
    counted = 0
    for _ in range(1500):
        engine.free_blocks = chance.randint(2_000, 18_000)
        costs.observe(engine)
        held = (engine.num_blocks - engine.free_blocks) * engine.block_size
        prompt_steps = chance.randint(0, 6)
        for step in range(chance.randint(8, 40)):
            tokens = 2048 if step < prompt_steps else 20
            engine.num_steps += 1
            engine.num_scheduled_tokens += tokens
            engine.now_s += 8e-3 + 2.2e-5 * (counted if ahead else tokens) + 4.5e-8 * held
            counted = tokens
            if chance.random() < 0.3:
                costs.observe(engine)
    assert costs.fixed_s == pytest.approx(8e-3, rel=0.15)
    assert costs.token_s == pytest.approx(2.2e-5, rel=0.05)
