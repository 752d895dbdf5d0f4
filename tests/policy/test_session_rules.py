"""The published rules of sessions: each runs sessions to their end, and does what sets it apart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest, NothingCached

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.policy.published import (
    SESSION_POLICIES,
    AgentCongestion,
    ClairvoyantSessions,
    KvTtl,
    LongestPrefixFirst,
    ProgramPausing,
    ReusePrediction,
)
from bidkv.profiles import load_profile
from bidkv.protocol import EngineView, Policy, RequestView, Session, SessionArrivals, SessionView, Turn
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate_sessions

_PROFILE = load_profile("h100-llama3.1-8b-traffic")
_CONFIG = EngineConfig(num_gpu_blocks=6001, enable_prefix_caching=True)


def _sessions(count: int, turns: int, *, gap_s: float = 0.5, shared: int = 0) -> list[Session]:
    ids = tuple(range(shared))
    return [
        Session(
            f"s{number}",
            tuple(
                Turn(200 if turn else 6000, 100, gap_s if turn else 0.0, hash_ids=() if turn else ids)
                for turn in range(turns)
            ),
        )
        for number in range(count)
    ]


def _run(policy: Policy, sessions: list[Session], arrivals: SessionArrivals | None = None) -> RunResult:
    return simulate_sessions(sessions, arrivals or SessionArrivals.at_once(), policy, _CONFIG, _PROFILE)


@pytest.mark.parametrize("name", [str(rule.name) for rule in SESSION_POLICIES])
def test_every_turn_is_answered(name: str) -> None:
    result = _run(resolve(name), _sessions(30, 5, shared=4))
    control = result.notes["control"]
    assert control["completions"] == 150
    assert control["sessions_ended"] == 30
    assert control["failures"] == control.get("session_failures", 0) == 0


def test_session_fcfs_prefers_old_sessions() -> None:
    arrivals = SessionArrivals.at_concurrency(90, stagger_s=0.01)
    ours, own = (
        {
            r.request_id: r.first_token_s or 0.0
            for r in _run(resolve(name), _sessions(90, 3), arrivals).records
        }
        for name in ("session-fcfs", "preempt-evict")
    )
    # The second turn of the first session arrives long after the last session, which still waits then.
    assert ours["s0#1"] < ours["s89#0"]
    assert own["s0#1"] > own["s89#0"]


def test_longest_prefix_enters_first_and_arrival_order_beyond_the_limit() -> None:
    class Cached(FakeEngine):
        def cached_tokens(self, request: RequestView) -> int:
            return int(request.request_id[1:]) * 16

    policy, engine = LongestPrefixFirst(), Cached()
    requests = [FakeRequest(f"r{number}") for number in range(130)]
    for request in requests[:128]:
        policy.on_arrival(request, engine)
    assert policy.select_next(engine) is requests[127]
    for request in requests[128:]:
        policy.on_arrival(request, engine)
    assert policy.select_next(engine) is requests[0]
    policy.on_admit(requests[0], engine)
    policy.on_admit(requests[129], engine)
    assert policy.select_next(engine) is requests[128]


class _Watched(ProgramPausing):
    """Records by how many tokens the active programs exceed the memory after every check."""

    def __init__(self) -> None:
        super().__init__()
        self.excess: list[float] = []

    def _check(self, engine: EngineView) -> None:
        before = self._checked_s
        super()._check(engine)
        if self._checked_s != before and not any(p.marked for p in self._programs.values()):
            self.excess.append(self._needed_tokens(0, 0) - engine.num_blocks * engine.block_size)


def test_active_programs_fit_the_memory_after_a_check() -> None:
    policy = _Watched()
    result = _run(policy, _sessions(30, 8, gap_s=2.0))
    assert len(policy.excess) > 5
    assert max(policy.excess) <= 0
    assert (
        result.totals.scheduled_tokens
        < 0.8 * _run(resolve("preempt-evict"), _sessions(30, 8, gap_s=2.0)).totals.scheduled_tokens
    )


def _paused_program(*turns: FakeRequest) -> tuple[Controller, FakeEngine]:
    """An engine where these turns of one session wait while the only turn of another fills the memory."""
    engine = FakeEngine(num_blocks=100, free_blocks=100, prefix_caching=True)
    control = Controller(ProgramPausing(), time_budget_s=None)
    engine.sessions = control.track_sessions(NothingCached())
    first = FakeRequest("first", num_prompt_tokens=1200, session_id="first", is_last_turn=True)
    engine.running.append(first)
    control.on_arrival(first, engine)
    control.on_admit(first, engine)
    for turn in turns:
        engine.queue.append(turn)
        control.on_arrival(turn, engine)
    assert control.select_next(engine) is None
    return control, engine


def test_a_paused_program_whose_waiting_turn_is_given_up() -> None:
    turn = FakeRequest("a#0", num_prompt_tokens=400, session_id="a")
    control, engine = _paused_program(turn)
    engine.queue.remove(turn)
    control.on_finish(engine.running.pop(), engine, completed=True)
    engine.now_s = 100.0
    control.on_finish(turn, engine, completed=False)
    later = FakeRequest("a#1", num_prompt_tokens=400, session_id="a")
    engine.queue.append(later)
    control.on_arrival(later, engine)
    assert control.counters.failures == 0
    assert control.select_next(engine) is later


def test_all_turns_that_wait_enter_when_their_program_resumes() -> None:
    turns = [FakeRequest(f"a#{number}", num_prompt_tokens=400, session_id="a") for number in range(3)]
    control, engine = _paused_program(*turns)
    engine.now_s = 100.0
    control.on_finish(engine.running.pop(), engine, completed=True)
    for turn in turns:
        assert control.select_next(engine) is turn
        engine.queue.remove(turn)
        engine.running.append(turn)
        control.on_admit(turn, engine)
    assert control.counters.failures == 0


def test_a_turn_that_waits_for_half_an_hour_enters_whatever_its_size() -> None:
    turn = FakeRequest("a#0", num_prompt_tokens=900, session_id="a")
    control, engine = _paused_program(turn)
    for seconds, entering in ((1799.0, None), (1805.0, turn)):
        engine.now_s = seconds
        other = FakeRequest(f"r{seconds}", num_prompt_tokens=16)
        engine.queue.append(other)
        control.on_arrival(other, engine)
        control.on_admit(other, engine)
        engine.queue.remove(other)
        assert control.select_next(engine) is entering


def test_more_programs_are_not_marked_while_those_marked_make_room() -> None:
    policy, engine = ProgramPausing(), FakeEngine(num_blocks=100, free_blocks=100)
    for number in range(3):
        request = FakeRequest(f"r{number}", num_prompt_tokens=500)
        policy.on_arrival(request, engine)
        policy.on_admit(request, engine)
    marked = []
    for check in range(1, 4):
        engine.now_s = check * 5.0
        policy._check(engine)
        marked.append([program.marked for program in policy._programs.values()])
    assert marked == [[True, False, False]] * 3


def test_a_check_does_not_look_at_every_paused_program() -> None:
    policy, engine = ProgramPausing(), FakeEngine(num_blocks=100, free_blocks=100)
    for number in range(1000):
        policy.on_arrival(FakeRequest(f"r{number}", num_prompt_tokens=500 + number % 7), engine)
    engine.now_s = 5.0
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    policy._check(engine)
    sys.setprofile(None)
    assert 0 < calls < 50


def test_requests_without_a_session_end_their_program() -> None:
    policies = ProgramPausing(), AgentCongestion()
    for policy in policies:
        engine = FakeEngine(num_blocks=100, free_blocks=100, prefix_caching=True)
        control = Controller(policy, time_budget_s=None)
        engine.sessions = control.track_sessions(NothingCached())
        for number in range(50):
            request = FakeRequest(f"r{number}", num_prompt_tokens=1200)
            engine.queue.append(request)
            control.on_arrival(request, engine)
            assert control.select_next(engine) is request, policy.name
            engine.queue.remove(request)
            engine.running.append(request)
            control.on_admit(request, engine)
            control.on_finish(engine.running.pop(), engine, completed=True)
    assert policies[0]._programs == policies[1]._active == {}


def test_the_hit_rate_of_agents_is_that_of_the_past_of_their_sessions() -> None:
    """Whether an engine tells an admission before the step's tokens count as computed makes no difference."""
    hits = []
    for computed in (0, 320):
        engine = FakeEngine(num_blocks=100, free_blocks=100, prefix_caching=True)
        policy = AgentCongestion()
        control = Controller(policy, time_budget_s=None)
        engine.sessions = control.track_sessions(NothingCached())
        turn = FakeRequest("a#0", num_prompt_tokens=320, num_computed_tokens=computed, session_id="a")
        control.on_arrival(turn, engine)
        control.on_admit(turn, engine)
        hits.append((policy._hit_tokens, policy._prompt_tokens))
    assert hits == [(0, 320)] * 2


def test_window_of_agents_follows_equation_1() -> None:
    policy = AgentCongestion(first_window=8.0)
    engine = FakeEngine(num_blocks=100)

    def control(used: int, hits: int) -> float:
        engine.free_blocks = 100 - used
        engine.now_s += 1.0
        policy._prompt_tokens, policy._hit_tokens = 100, hits
        policy._active = dict.fromkeys(map(str, range(20)))
        policy._control(engine)
        return policy._window

    assert control(used=10, hits=0) == 10.0  # little memory in use: 2 more
    assert control(used=30, hits=0) == 10.0  # the dead zone
    assert control(used=60, hits=50) == 10.0  # full, but the cache works
    assert control(used=60, hits=10) == 5.0  # thrashing: halved


class _View:
    """A session with the figures that the rules read."""

    context_tokens = 8000
    cached_blocks = 500
    gap_hint_s: float | None = None
    first_arrival_s = 0.0

    def __init__(self, name: str, idle_since_s: float) -> None:
        self.session_id = name
        self.idle_since_s = idle_since_s


def _view(name: str, idle_since_s: float) -> SessionView:
    return _View(name, idle_since_s)  # type: ignore[return-value]


def test_time_to_live_covers_the_gaps_that_pay() -> None:
    policy, engine = KvTtl(), FakeEngine(num_blocks=6000)
    for gap_s in (1.0,) * 90 + (500.0,) * 10:
        policy._gaps.add(gap_s)
    policy._mean_wait_s = 3.0
    assert policy._time_to_live_s(_view("a", 0.0), engine) == 1.0
    policy._mean_wait_s = 1e4
    assert policy._time_to_live_s(_view("a", 0.0), engine) == 500.0


@given(gaps=st.lists(st.floats(0.0, 1000.0), max_size=30), idle_s=st.floats(0.0, 1000.0))
@settings(deadline=None)
def test_the_time_left_is_the_mean_of_the_latest_gaps_that_are_longer(
    gaps: list[float], idle_s: float
) -> None:
    policy = ReusePrediction()
    with patch("bidkv.policy.published.session_retention._MOST_GAPS", 8):
        for number, gap_s in enumerate(gaps, 1):
            policy._gaps.add(gap_s)
            longer = [gap - idle_s for gap in gaps[max(0, number - 8) : number] if gap > idle_s]
            expected = sum(longer) / len(longer) if longer else max(idle_s, 1.0)
            assert policy._gaps.mean_beyond(idle_s) == pytest.approx(expected, abs=1e-6)


def test_reuse_prediction_drops_the_one_that_returns_last() -> None:
    policy = ReusePrediction()
    for gap_s in (1.0,) * 50 + (60.0,) * 5:
        policy._gaps.add(gap_s)
    assert policy._return_in_s(_view("fresh", 99.5), 100.0) < policy._return_in_s(_view("old", 90.0), 100.0)
    hinted = _View("hinted", 99.0)
    hinted.gap_hint_s = 300.0
    assert policy._return_in_s(hinted, 100.0) == 299.0  # type: ignore[arg-type]


def test_the_clairvoyant_bound_is_told_every_gap() -> None:
    hints: list[float | None] = []

    class Telling(ClairvoyantSessions):
        def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
            hints.append(session.gap_hint_s)
            super().on_turn_end(session, engine)

    _run(Telling(), _sessions(5, 4, gap_s=1.25))
    assert hints == [1.25] * 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProgramPausing(interval_s=0.0), "interval_s must be > 0, got 0.0"),
        (lambda: AgentCongestion(interval_s=-1.0), "interval_s must be > 0, got -1.0"),
        (lambda: AgentCongestion(first_window=0.0), "first_window must be > 0, got 0.0"),
    ],
)
def test_options_out_of_range(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
