"""The bound on a cold turn's wait under `sessions`, with sessions that are out to break it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeRequest

from bidkv.policy.own.sessions import Sessions
from bidkv.policy.own.sessions_cold import ColdQueue
from bidkv.profiles import load_profile
from bidkv.protocol import EngineView, RequestView, Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, simulate_sessions

_PROFILE = load_profile("h100-llama3.1-8b-traffic")


class Counted(Sessions):
    """Counts what enters while a cold turn is the first of its line, and after one became overdue."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.firsts: list[RequestView | None] = [None, None]
        self.passed = [0, 0]
        self.late_turns = 0

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        cold, num_resident = self._cold, self._num_resident(engine)
        first = cold.first(num_resident)
        assert (request in cold) == (request is first)
        is_overdue = cold.is_overdue(num_resident)
        self.late_turns += is_overdue and request is not first and not request.num_preemptions
        for number, line in enumerate((cold._going_on, cold._last)):
            if line.first is not self.firsts[number]:
                self.firsts[number], self.passed[number] = line.first, 0
            if line.first is not None and line.first is not request and not request.num_preemptions:
                self.passed[number] += 1
                is_overdue_too = is_overdue and request is first
                assert is_overdue_too or self.passed[number] <= cold._patience * (1 + num_resident) + 1
        super().on_admit(request, engine)


@st.composite
def adversaries(draw: st.DrawFn) -> list[Session]:
    """Sessions that never seem to end, one larger than half of the memory, and a crowd of new ones."""
    sessions = []
    for number in range(draw(st.integers(1, 6))):
        turns = draw(st.integers(40, 120))
        first = draw(st.integers(500, 3000))
        gap_s = draw(st.sampled_from([0.0, 0.01, 0.5, 3.0]))
        turn = Turn(draw(st.integers(1, 40)), draw(st.integers(1, 20)), gap_s)
        sessions.append(Session(f"long{number}", (Turn(first, 5), *(turn,) * (turns - 1)), start_s=0.0))
    large = draw(st.integers(8200, 12000))
    sessions.append(Session("large", (Turn(large, 5), Turn(10, 5, 1.0)), start_s=draw(st.floats(0.1, 5.0))))
    for number in range(draw(st.integers(5, 60))):
        start_s = draw(st.floats(0.0, 10.0))
        size = draw(st.integers(100, 4000))
        sessions.append(Session(f"new{number}", (Turn(size, 5), Turn(10, 5, 0.2)), start_s=start_s))
    for number in range(draw(st.integers(0, 100))):
        start_s = draw(st.floats(0.0, 10.0))
        single = Turn(draw(st.integers(50, 2000)), draw(st.integers(1, 40)))
        sessions.append(Session(f"single{number}", (single,), start_s=start_s))
    return sorted(sessions, key=lambda session: session.start_s or 0.0)


@given(sessions=adversaries(), patience=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_cold_turn_is_passed_no_more_than_the_bound_says(sessions: list[Session], patience: int) -> None:
    policy = Counted(patience=patience)
    config = EngineConfig(num_gpu_blocks=1001, enable_prefix_caching=True, max_model_len=15_000)
    result = simulate_sessions(sessions, SessionArrivals.at_own_times(), policy, config, _PROFILE)
    control = result.notes["control"]
    assert control["failures"] == control["session_failures"] == 0
    assert control["completions"] == sum(len(session.turns) for session in sessions)
    assert policy.late_turns == 0


def test_overdue_after_so_many_turns() -> None:
    queue = ColdQueue(patience=3)
    requests = [FakeRequest(f"r{number}") for number in range(6)]
    for number, request in enumerate(requests):
        queue.push(request, (0, float(number)), 10)
    for _ in range(6):
        assert not queue.is_overdue(1)
        queue.note_entered(FakeRequest("resident"))
    assert queue.is_overdue(1)  # 3 * (1 + 1) turns
    assert not queue.is_overdue(2)
    queue.note_entered(requests[0])
    assert queue.first(1) is requests[1]
    assert not queue.is_overdue(1)


def test_last_turns_go_first_until_the_others_are_overdue() -> None:
    queue = ColdQueue(patience=2)
    session, singles = FakeRequest("session"), [FakeRequest(f"single{number}") for number in range(4)]
    queue.push(session, (0, 0.0), 10)
    for number, single in enumerate(singles):
        queue.push(single, (0, 1.0 + number), 1, is_last=True)
    entered = []
    for _ in range(5):
        entered.append(queue.first(0))
        queue.note_entered(entered[-1])  # type: ignore[arg-type]
    assert entered == [singles[0], singles[1], session, singles[2], singles[3]]


def test_a_last_turn_becomes_overdue_too() -> None:
    queue = ColdQueue(patience=2)
    single = FakeRequest("single")
    queue.push(single, (0, 0.0), 1, is_last=True)
    for _ in range(2):
        assert not queue.is_overdue(0)
        queue.note_entered(FakeRequest("resident"))
    assert queue.first(0) is single
    assert queue.is_overdue(0)


def test_a_last_turn_does_not_pass_a_more_important_turn() -> None:
    queue = ColdQueue(patience=2)
    session, single = FakeRequest("session", priority=-1), FakeRequest("single")
    queue.push(session, (-1, 5.0), 10)
    queue.push(single, (0, 0.0), 1, is_last=True)
    assert queue.first(0) is session


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=200))
def test_the_first_one_by_key_is_first(actions: list[tuple[int, bool, bool]]) -> None:
    queue = ColdQueue(patience=3)
    requests = [FakeRequest(f"r{number}", priority=number % 3) for number in range(31)]
    members: dict[int, bool] = {}
    for number, joins, is_last in actions:
        if joins and number not in members:
            queue.push(requests[number], (number % 3, float(number)), number, is_last=is_last)
            members[number] = is_last
        elif not joins:
            members.pop(number, None)
            queue.discard(requests[number])
        first = min(members, key=lambda number: (number % 3, not members[number], number), default=None)
        assert queue.first(0) is (None if first is None else requests[first])
        assert all((request in queue) == (number in members) for number, request in enumerate(requests))
        assert len(queue) == len(members)
