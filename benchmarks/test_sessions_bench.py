"""What the fourth question costs: `pytest benchmarks/test_sessions_bench.py`.

256 requests run, 1,000 sessions are idle and 1,000 cold turns wait. With pressure every event asks who enters
and which session is dropped; without it a step asks nothing.
"""

from __future__ import annotations

from typing import Any

from bidkv.control import Controller
from bidkv.policy.own.sessions import Sessions
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine

RUNNING, IDLE, WAITING = 256, 1000, 1000
TOKENS = 512
"""Tokens of every context: 32 blocks."""


def _source(name: str, tokens: int, output: int) -> WorkloadRequest:
    content = ((hash(name) & 0xFFFFFFF, tokens),)
    return WorkloadRequest(f"{name}#0", 0.0, tokens, output, session_id=name, content=content)


def crowded_engine(*, waiting: int, spare_blocks: int) -> tuple[Controller, VllmStepEngine, Sessions]:
    """An engine with running requests and idle sessions, and cold turns that do not fit beside them."""
    policy = Sessions()
    control = Controller(policy, time_budget_s=None)
    # A running request has begun its first block of output; no cold turn fits into what is left.
    blocks = RUNNING * (TOKENS // 16 + 1) + IDLE * (TOKENS // 16) + 1000 + spare_blocks
    config = EngineConfig(
        num_gpu_blocks=1 + blocks,
        max_num_seqs=RUNNING,
        max_num_batched_tokens=8192,
        max_model_len=40_000,
        enable_prefix_caching=True,
    )
    engine = VllmStepEngine(config, load_profile("h100-llama3.1-8b"), control)
    engine.track_sessions(find_by_prefix=False)
    for group, count, output in (("idle", IDLE, 2), ("running", RUNNING, 3000)):
        for number in range(count):
            engine.submit(SimRequest(_source(f"{group}{number}", TOKENS, output), config.model_len))
        steps = 0
        while engine.num_waiting or engine.num_prefilling or (group == "idle" and not engine.idle):
            engine.step()
            steps += 1
            assert steps < 5000
    for number in range(waiting):
        engine.submit(SimRequest(_source(f"cold{number}", 30_000, 5), config.model_len))
    assert control.sessions is not None
    assert engine.num_running == RUNNING
    assert len(control.sessions.idle) == IDLE
    assert len(policy._cold) == waiting
    return control, engine, policy


def at_a_new_moment(policy: Sessions) -> None:
    """Forget what one moment's questions share, as a new moment does."""
    policy._idle._first_is_of = None


def test_a_step_without_pressure(benchmark: Any) -> None:
    control, engine, _ = crowded_engine(waiting=0, spare_blocks=20_000)
    control.before_step(engine)
    assert benchmark(lambda: control.drop_idle(engine)) is None


def test_an_event_under_pressure(benchmark: Any) -> None:
    """The cold turns do not fit and no idle session is cheap enough to drop: all is looked at in vain."""
    control, engine, policy = crowded_engine(waiting=WAITING, spare_blocks=0)
    dear = type(policy.costs).memory_price

    def ask() -> object:
        control.forget_answers()
        at_a_new_moment(policy)
        return control.select_next(engine)

    type(policy.costs).memory_price = lambda *_: 0.0  # type: ignore[method-assign]
    try:
        assert benchmark(ask) is None
    finally:
        type(policy.costs).memory_price = dear  # type: ignore[method-assign]
    assert control.counters.session_drops == 0


def test_a_plan_of_drops(benchmark: Any) -> None:
    """Every idle session is cheap: those that make room for one cold turn are found."""
    _, engine, policy = crowded_engine(waiting=WAITING, spare_blocks=0)
    cheap = type(policy.costs).memory_price
    type(policy.costs).memory_price = lambda *_: float("inf")  # type: ignore[method-assign]

    def plan() -> object:
        at_a_new_moment(policy)
        return policy._make_room(engine, overdue=False)

    try:
        assert benchmark(plan)
    finally:
        type(policy.costs).memory_price = cheap  # type: ignore[method-assign]


def test_room_where_every_idle_session_is_cheap(benchmark: Any) -> None:
    """The room for growth is covered by idle sessions worth less than the price; as many as are looked at."""
    _, engine, policy = crowded_engine(waiting=WAITING, spare_blocks=0)
    cheap = type(policy.costs).memory_price
    type(policy.costs).memory_price = lambda *_: float("inf")  # type: ignore[method-assign]
    policy._turn_blocks = 1e6

    def room() -> float:
        at_a_new_moment(policy)
        return policy._cold_room(engine)

    first = policy._first_cold(engine)
    assert first is not None
    try:
        assert benchmark(room) < (policy._cold.need_blocks(first) or 0)
    finally:
        type(policy.costs).memory_price = cheap  # type: ignore[method-assign]


def test_the_end_of_a_turn_and_its_return(benchmark: Any) -> None:
    """What learning a gap, its class and the order of the idle sessions costs."""
    control, engine, policy = crowded_engine(waiting=WAITING, spare_blocks=0)
    assert control.sessions is not None
    session = next(iter(control.sessions.idle.values()))

    def cycle() -> None:
        known = policy._known[session.session_id]
        assert known.since_s is not None
        policy.retention.stop(known.kind, known.since_s, engine.now_s)
        policy._idle.discard(session)
        policy.on_turn_end(session, engine)

    benchmark(cycle)
