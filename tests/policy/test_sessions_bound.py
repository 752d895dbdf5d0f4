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
    """Counts what enters while one cold turn is first, before and after it becomes overdue."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.first: RequestView | None = None
        self.resident_turns = 0
        self.late_turns = 0

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        first = self._cold.first
        if first is not self.first:
            self.first, self.resident_turns = first, 0
        overdue = bool(self._cold) and self._is_overdue(engine)
        if first is not None and request is not first:
            assert request not in self._cold
            self.resident_turns += 1
            assert self.resident_turns <= self._cold._patience * (1 + self._num_resident(engine)) + 1
            self.late_turns += overdue and not request.num_preemptions
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
    assert queue.first is requests[1]
    assert not queue.is_overdue(1)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_the_first_one_by_key_is_first(actions: list[tuple[int, bool]]) -> None:
    queue = ColdQueue(patience=3)
    requests = [FakeRequest(f"r{number}") for number in range(31)]
    members: dict[int, FakeRequest] = {}
    for number, joins in actions:
        if joins and number not in members:
            queue.push(requests[number], (number % 3, float(number)), number)
            members[number] = requests[number]
        elif not joins:
            assert queue.discard(requests[number]) == (members.pop(number, None) is not None)
        first = min(members, key=lambda number: (number % 3, number), default=None)
        assert queue.first is (None if first is None else members[first])
        assert all((request in queue) == (number in members) for number, request in enumerate(requests))
        assert len(queue) == len(members)
