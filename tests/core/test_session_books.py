"""The session accounts against a simulated engine: what they say is what its prefix cache really holds."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support import steady_profile

from bidkv.control import Controller
from bidkv.control.sessions import SessionLedger
from bidkv.policy import resolve
from bidkv.protocol import EngineView, Policy, RequestView, Session, SessionArrivals, SessionView, Turn
from bidkv.simulator import EngineConfig, VllmStepEngine, simulate_sessions


class Watching(Policy):
    """Checks the books at every event, and drops a random idle session now and then."""

    name = "watching"

    def __init__(self, *, drops: float, always_roomy: bool) -> None:
        self.chance = Random(7)
        self.drops = drops
        self.always_roomy = always_roomy
        self.events: list[tuple[str, str]] = []
        self.dropped = 0

    def check(self, engine: EngineView) -> None:
        assert isinstance(engine, VllmStepEngine)
        sessions = engine.sessions
        assert sessions is not None
        cache = engine._cache
        assert cache is not None
        for session in sessions.idle.values():
            assert session.idle_since_s is not None
            assert 0 <= session.exclusive_blocks <= session.cached_blocks
        if self.always_roomy:
            assert sessions.retained_blocks <= engine.free_blocks

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        assert engine.sessions is not None
        session = engine.sessions.session_for(request)
        if request.session_id:
            assert session is not None
            assert session.session_id == request.session_id
            assert session.num_turns == request.turn + 1
            assert session.cached_blocks == engine.cached_tokens(request) // engine.block_size
        self.events.append(("arrival", request.session_id))
        self.check(engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self.check(engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self.events.append(("finish", request.session_id))

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        self.events.append(("turn end", session.session_id))
        assert session.idle_since_s == engine.now_s
        self.check(engine)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        self.events.append(("session end", session.session_id))

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        self.check(engine)
        if self.chance.random() >= self.drops:
            return None
        self.dropped += 1
        return self.chance.choice(list(idle.values()))

    def drop_blocks(self, session: SessionView, engine: EngineView) -> int | None:
        self.check(engine)
        return self.chance.choice([None, 1, 2, 5])


def random_sessions(seed: int, count: int = 30) -> list[Session]:
    """Sessions with shared beginnings, gaps of many lengths and now and then a rewritten past."""
    chance = Random(seed)
    sessions = []
    for number in range(count):
        turns: list[Turn] = []
        context = 0
        for index in range(chance.randint(1, 6)):
            new = chance.randint(1, 44)
            kept = chance.randint(0, context) if index and chance.random() < 0.15 else None
            context = context if kept is None else kept
            ids = tuple(range(new // 8)) if not index and chance.random() < 0.5 else ()
            output = chance.randint(1, 12)
            gap = 0.0 if not index else chance.choice([0.0, 1.0, 5.0, 40.0])
            turns.append(Turn(new, output, gap, hash_ids=ids, kept_tokens=kept))
            context += new + output
        sessions.append(Session(f"s{number}", tuple(turns), start_s=number * 2.0, chunk_tokens=8))
    return sessions


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("blocks", "roomy"), [(4000, True), (90, False)])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_books_agree_with_the_cache(seed: int, blocks: int, roomy: bool, asynchronous: bool) -> None:
    policy = Watching(drops=0.2, always_roomy=roomy)
    config = EngineConfig(
        num_gpu_blocks=blocks,
        block_size=4,
        enable_prefix_caching=True,
        async_scheduling=asynchronous,
        max_model_len=350,
    )
    sessions = random_sessions(seed)
    result = simulate_sessions(
        sessions, SessionArrivals.at_own_times(), policy, config, steady_profile(), backend="python"
    )
    control = result.notes["control"]
    assert control["session_failures"] == 0
    assert control["failures"] == 0
    assert control["completions"] == sum(len(session.turns) for session in sessions)
    assert control["sessions_ended"] == len(sessions)
    assert control["session_drops"] == policy.dropped > 0
    for name in (session.session_id for session in sessions):
        own = [event for event, session_id in policy.events if session_id == name]
        turns = own.count("arrival")
        assert own == ["arrival", "finish", "turn end"] * (turns - 1) + ["arrival", "finish", "session end"]


@pytest.mark.parametrize("name", ["preempt-evict", "fair", "fast"])
def test_books_change_nothing_for_a_policy_that_answers_no_drop(name: str) -> None:
    config = EngineConfig(num_gpu_blocks=120, block_size=4, enable_prefix_caching=True, max_model_len=350)
    arrivals = SessionArrivals.at_own_times()
    result = simulate_sessions(random_sessions(3), arrivals, resolve(name), config, steady_profile())
    assert result.notes["control"]["session_drops"] == 0
    assert result.notes["control"]["session_failures"] == 0


def check_switched_off(policy: Policy) -> None:
    """Play sessions under a policy that answers nonsense: it drops nothing, and every turn completes."""
    config = EngineConfig(num_gpu_blocks=120, block_size=4, enable_prefix_caching=True, max_model_len=350)
    sessions = random_sessions(3)
    result = simulate_sessions(sessions, SessionArrivals.at_own_times(), policy, config, steady_profile())
    control = result.notes["control"]
    assert control["failures"] == 1
    assert control["session_drops"] == 0
    assert control["completions"] == sum(len(session.turns) for session in sessions)


class DropsParts(Policy):
    """Drops the first idle session in part, with whatever it is given as the number of blocks."""

    name = "drops-parts"

    def __init__(self, blocks: object) -> None:
        self.blocks = blocks
        self.asked = 0

    def __deepcopy__(self, memo: dict[int, object]) -> DropsParts:
        return self

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        return next(iter(idle.values()))

    def drop_blocks(self, session: SessionView, engine: EngineView) -> int | None:
        self.asked += 1
        if isinstance(self.blocks, Exception):
            raise self.blocks
        return self.blocks  # type: ignore[return-value]


@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_all_blocks_go_in_the_end_however_small_the_parts(backend: str) -> None:
    config = EngineConfig(num_gpu_blocks=120, block_size=4, enable_prefix_caching=True, max_model_len=350)
    figures = []
    for blocks in (None, 1, 3, 10**9):
        policy = DropsParts(blocks)
        arrivals = SessionArrivals.at_own_times()
        result = simulate_sessions(
            random_sessions(3), arrivals, policy, config, steady_profile(), backend=backend
        )
        control = result.notes["control"]
        assert control["failures"] == control["session_failures"] == 0
        assert policy.asked == control["session_drops"] > 0
        figures.append((control["session_blocks_dropped"], result.summary()["e2e_s"]["mean"]))
    assert len(set(figures)) == 1


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (0, "invalid_answer: drop of 0 blocks is not an int >= 1"),
        (-3, "invalid_answer: drop of -3 blocks"),
        (True, "invalid_answer: drop of True blocks"),
        (2.0, "invalid_answer: drop of 2.0 blocks"),
        ("two", "invalid_answer: drop of 'two' blocks"),
        (RuntimeError("no"), "exception: RuntimeError('no')"),
    ],
)
def test_a_wrong_number_of_blocks_switches_the_policy_off(
    blocks: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_switched_off(DropsParts(blocks))
    assert reason in caplog.text


class Answering(Policy):
    """Answers the fourth question with whatever it is given."""

    name = "answering"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __deepcopy__(self, memo: dict[int, object]) -> Answering:
        return self

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("no"), "exception: RuntimeError('no')"),
        ("s0", "invalid_answer: session 's0' is not idle"),
        (object(), "is not idle"),
    ],
)
def test_a_wrong_answer_switches_the_policy_off(
    answer: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_switched_off(Answering(answer))
    assert reason in caplog.text


class _Engine:
    """What the books read of an engine."""

    block_size = 4
    free_blocks = 1000
    now_s = 0.0


class _Cache:
    """Keys of blocks are the tokens up to their ends; what is cached is a set of keys."""

    def __init__(self) -> None:
        self.cached: set[tuple[int, ...]] = set()

    def block_keys(self, request: Any) -> list[tuple[int, ...]]:
        tokens = request.tokens
        return [tuple(tokens[:end]) for end in range(4, len(tokens) + 1, 4)]

    def cached_tokens(self, request: Any) -> int:
        return 4 * sum(key in self.cached for key in self.block_keys(request))

    def is_cached(self, key: Any) -> bool:
        return key in self.cached

    reuses_parts = True

    def reuse_first(self, keys: Any) -> int:
        self.cached.difference_update(keys)
        return len(keys)


def _serve_turn(
    ledger: SessionLedger,
    cache: _Cache,
    name: str,
    tokens: list[int],
    prompt: int,
    *,
    told: str = "",
    last: bool = False,
) -> Any:
    request: Any = SimpleNamespace(
        request_id=name,
        session_id=told,
        is_last_turn=last,
        agent_id="",
        priority=0,
        weight=1.0,
        gap_hint_s=None,
        num_preemptions=0,
        tokens=tokens[:prompt],
        num_prompt_tokens=prompt,
        num_output_tokens=len(tokens) - prompt,
        num_computed_tokens=len(tokens),
    )
    engine: Any = _Engine()
    ledger.arrive(request, engine)
    ledger.admit(request, cache.cached_tokens(request), engine)
    request.tokens = tokens
    cache.cached.update(cache.block_keys(request))
    return ledger.finish(request, engine)


def test_books_that_failed_know_no_session_any_more() -> None:
    """An engine's view still holds them: a policy must not reckon with blocks that nobody counts."""
    controller = Controller(Policy())
    cache = _Cache()
    books: Any = controller.track_sessions(cache)
    _serve_turn(books, cache, "a", list(range(20)), 16)
    assert books.retained_blocks == 5
    cache.cached_tokens = "not to be called"  # type: ignore[assignment,method-assign]
    request: Any = SimpleNamespace(request_id="b", session_id="told", num_prompt_tokens=8, agent_id="")
    controller.on_arrival(request, _Engine())  # type: ignore[arg-type]
    assert controller.sessions is None
    assert controller.counters.session_failures == 1
    assert (books.retained_blocks, dict(books.idle), books.in_use) == (0, {}, False)
    assert books.session_for(request) is None


def test_a_session_found_by_its_past_stays_known_after_its_blocks_are_gone() -> None:
    cache = _Cache()
    ledger = SessionLedger(cache)
    session = _serve_turn(ledger, cache, "a", list(range(20)), 16)
    assert ledger.drop(session, session.exclusive_blocks) == 5
    assert ledger.take_forgotten(_Engine()) == []  # type: ignore[arg-type]
    again = _serve_turn(ledger, cache, "b", list(range(40)), 32)
    assert again is session
    assert again.num_turns == 2
    assert ledger.figures.turns_found == 1
    assert ledger.figures.lost_prefix_tokens == 16


def test_a_dropped_part_is_the_end_of_a_past_and_the_rest_stays_idle() -> None:
    cache = _Cache()
    ledger = SessionLedger(cache)
    session = _serve_turn(ledger, cache, "a", list(range(20)), 16)
    assert ledger.drop(session, 2) == 2
    assert (session.cached_blocks, session.exclusive_blocks, ledger.retained_blocks) == (3, 3, 3)
    assert list(ledger.idle.values()) == [session]
    assert ledger.drop(session, 3) == 3
    assert (session.cached_blocks, ledger.retained_blocks, dict(ledger.idle)) == (0, 0, {})


def test_what_sessions_share_is_in_no_part() -> None:
    cache = _Cache()
    ledger = SessionLedger(cache)
    first = _serve_turn(ledger, cache, "a", list(range(20)), 16, told="a")
    second = _serve_turn(ledger, cache, "b", [*range(12), *range(50, 58)], 16, told="b")
    assert (first.exclusive_blocks, second.exclusive_blocks) == (2, 2)
    assert ledger.drop(first, 1) == 1
    assert ledger.drop(first, 5) == 1
    assert (second.cached_blocks, ledger.retained_blocks, list(ledger.idle.values())) == (5, 5, [second])


def test_an_engine_that_cannot_keep_a_rest_loses_the_whole() -> None:
    books = SimpleNamespace(drops_parts=False)
    policy = DropsParts(1)
    controller = Controller(policy)
    dropped = []
    session: Any = SimpleNamespace(session_id="a", exclusive_blocks=7)
    books.idle, books.retained_blocks = {"a": session}, 7
    books.settle = lambda: 0
    books.is_idle = lambda _: True

    def drop(session: Any, blocks: int) -> int:
        dropped.append(blocks)
        books.idle.clear()
        return blocks

    books.drop = drop
    controller._sessions = books  # type: ignore[assignment]
    controller.drops_idle = True
    controller.drop_idle(SimpleNamespace(free_blocks=7, num_running=1))  # type: ignore[arg-type]
    assert (dropped, policy.asked) == ([7], 0)


def test_sessions_without_blocks_are_forgotten_when_there_are_too_many(monkeypatch: Any) -> None:
    monkeypatch.setattr("bidkv.control.sessions.MOST_SESSIONS", 2)
    cache = _Cache()
    ledger = SessionLedger(cache)
    for number in range(3):
        tokens = list(range(100 * number, 100 * number + 8))
        ledger.drop(_serve_turn(ledger, cache, f"r{number}", tokens, 4), 2)
    assert [gone.session_id for gone in ledger.take_forgotten(_Engine())] == ["~r0"]  # type: ignore[arg-type]
    assert _serve_turn(ledger, cache, "new", list(range(12)), 8).session_id == "~new"
    assert _serve_turn(ledger, cache, "old", list(range(200, 212)), 8).session_id == "~r2"


def test_request_ids_that_come_again_are_not_taken_for_one_session() -> None:
    """A proxy may send one id for every request of a trace, and a client may name a session as it likes."""
    cache = _Cache()
    ledger = SessionLedger(cache)
    turns = [_serve_turn(ledger, cache, "same", list(range(100 * n, 100 * n + 20)), 16) for n in range(3)]
    assert [session.session_id for session in turns] == ["~same", "~same#1", "~same#2"]
    assert ledger.retained_blocks == 15
    assert list(ledger.idle.values()) == turns
    told = _serve_turn(ledger, cache, "told", list(range(300, 320)), 16, told="~same")
    assert told.is_told
    assert _serve_turn(ledger, cache, "again", list(range(300, 340)), 32, told="~same") is told
    for session in (*turns, told):
        ledger.drop(session, session.exclusive_blocks)
    assert ledger.retained_blocks == 0


def test_the_name_of_a_session_that_is_over_can_be_used_again() -> None:
    cache = _Cache()
    ledger = SessionLedger(cache)
    for _ in range(2):
        session = _serve_turn(ledger, cache, "r", list(range(20)), 16, told="chat", last=True)
        assert (session.session_id, session.num_turns) == ("chat", 1)
