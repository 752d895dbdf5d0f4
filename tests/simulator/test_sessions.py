"""Sessions in closed loop: when turns arrive, what they find in the cache, and how a run is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results import Outcome, RequestRecord, RunResult
from bidkv.simulator import EngineConfig, SessionSource, SglangConfig, SimulationError, simulate_sessions
from bidkv.simulator.arrivals import Arrival
from bidkv.simulator.content import answer_key, prompt_key

PROFILE = load_profile("h100-llama3.1-8b-traffic")
CACHED = EngineConfig(4000, enable_prefix_caching=True)


def make_sessions(count: int, *, turns: int = 3, gap_s: float = 0.5, new_tokens: int = 320) -> list[Session]:
    later = [Turn(new_tokens, 20, gap_s) for _ in range(turns - 1)]
    return [Session(f"s{i}", (Turn(new_tokens, 20), *later)) for i in range(count)]


def run(sessions: list[Session], arrivals: SessionArrivals, engine=CACHED, **options) -> RunResult:
    return simulate_sessions(sessions, arrivals, resolve("preempt-evict"), engine, PROFILE, **options)


def by_id(result: RunResult) -> dict[str, RequestRecord]:
    return {record.request_id: record for record in result.records}


@pytest.mark.parametrize(
    "engine",
    [CACHED, EngineConfig(4000, enable_prefix_caching=True, async_scheduling=True), SglangConfig(64000)],
)
def test_a_turn_arrives_its_gap_after_the_last_token(engine) -> None:
    sessions = make_sessions(5)
    records = by_id(run(sessions, SessionArrivals.at_once(), engine))
    assert len(records) == 15
    for session in sessions:
        turns = [records[f"{session.session_id}#{turn}"] for turn in range(3)]
        assert turns[0].arrival_s == 0.0
        for earlier, later in pairwise(turns):
            assert later.arrival_s == earlier.finish_s + 0.5
            assert later.prompt_tokens == earlier.prompt_tokens + 20 + 320


def test_an_end_starts_the_next_session_at_once() -> None:
    result = run(make_sessions(7), SessionArrivals.at_concurrency(3, stagger_s=0.2))
    starts = sorted(r.arrival_s for r in result.records if r.request_id.endswith("#0"))
    ends = sorted(r.finish_s for r in result.records if r.request_id.endswith("#2"))
    assert starts == pytest.approx([0.0, 0.2, 0.4, *ends[:4]])


def test_open_arrivals_wait_for_no_end() -> None:
    arrivals = SessionArrivals.at_rate(4.0, seed=3)
    sessions = make_sessions(20)
    starts = [r.arrival_s for r in run(sessions, arrivals).records if r.request_id.endswith("#0")]
    assert sorted(starts) == arrivals.start_times(sessions)


def test_answers_are_found_in_the_cache() -> None:
    """With memory for everything a turn computes its new tokens and what of a block was not full."""
    result = run(make_sessions(4), SessionArrivals.at_once())
    # Turn k has 320 (k + 1) + 20 k tokens; the KV of an answer's last token was never computed.
    per_session = 320 + 19 + sum(prompt - (prompt - 321) // 16 * 16 + 19 for prompt in (660, 1000))
    assert result.totals.scheduled_tokens == 4 * per_session
    uncached = run(make_sessions(4), SessionArrivals.at_once(), EngineConfig(4000))
    assert uncached.totals.scheduled_tokens == 4 * (320 + 660 + 1000 + 3 * 19)


def test_only_the_kept_past_is_found() -> None:
    """A client that rewrote its past from token 160 on shares the ten blocks before it."""
    turns = (Turn(320, 20), Turn(200, 20, 0.1, kept_tokens=160))
    result = run([Session("s", turns)], SessionArrivals.at_once())
    assert by_id(result)["s#1"].prompt_tokens == 360
    assert result.totals.scheduled_tokens == (320 + 19) + (360 - 160 + 19)


def test_sessions_share_their_common_chunks_alone() -> None:
    def session(name: str, second: int) -> Session:
        return Session(
            name, (Turn(300, 5, hash_ids=(1, second)),), start_s=float(ord(name) - 97), chunk_tokens=128
        )

    result = run([session("a", 2), session("b", 2), session("c", 3)], SessionArrivals.at_own_times())
    # b finds both chunks (and no more: what follows them is its own), c the first one.
    assert result.totals.scheduled_tokens == 304 + (304 - 256) + (304 - 128)


def test_a_cut_counts_what_is_complete() -> None:
    sessions = make_sessions(30, turns=6)
    whole = run(sessions, SessionArrivals.at_concurrency(10))
    cut = run(sessions, SessionArrivals.at_concurrency(10), duration_s=3.0)
    assert cut.records == [record for record in whole.records if record.finish_s <= 3.0]
    assert 0 < len(cut.records) < len(whole.records)
    assert 3.0 <= cut.simulated_s < 3.1


@pytest.mark.parametrize("engine", [EngineConfig(300, enable_prefix_caching=True), SglangConfig(4784)])
def test_a_client_without_patience_gives_up_its_session(engine) -> None:
    """The turn is taken back at the first step past its patience, and another session starts in its place."""
    sessions = make_sessions(12, turns=4, new_tokens=700)
    result = run(sessions, SessionArrivals.at_concurrency(6), engine, patience_s=0.5)
    given_up = [record for record in result.records if record.outcome is Outcome.FAILED]
    assert given_up
    for record in given_up:
        assert record.detail == "its client gave it up"
        session_id, turn = record.request_id.split("#")
        assert f"{session_id}#{int(turn) + 1}" not in by_id(result)
    for record in result.records:
        assert record.finish_s is None or record.e2e_s < 0.6
    started = {record.request_id for record in result.records if record.request_id.endswith("#0")}
    assert len(started) == 12


def test_a_rejected_turn_ends_its_session() -> None:
    engine = EngineConfig(100, max_model_len=700, enable_prefix_caching=True)
    result = run(make_sessions(2, turns=4), SessionArrivals.at_concurrency(1), engine)
    outcomes = {record.request_id: record.outcome for record in result.records}
    assert outcomes["s0#2"] is outcomes["s1#2"] is Outcome.REJECTED
    assert "s0#3" not in outcomes
    assert len(outcomes) == 6


def test_the_source_names_content() -> None:
    turns = (Turn(600, 30, hash_ids=(7,)), Turn(40, 10, 1.5), Turn(9, 9, kept_tokens=520))
    source = SessionSource([Session("x", turns, agent_id="a", priority=2)], SessionArrivals.at_once())
    arrival = source.take()
    first = arrival.request
    assert arrival == Arrival(first, 600, 0, ends_session=False)
    assert first.content == ((7, 512), (prompt_key("x", 0), 88))
    assert (first.agent_id, first.priority, first.is_last_turn) == ("a", 2, False)
    assert source.next_arrival_s == float("inf")
    source.close(first, 10.0, 30, completed=True)
    assert source.next_arrival_s == 11.5
    second, new_tokens, past_tokens, _ = source.take()
    assert (new_tokens, past_tokens) == (40, 629)
    assert second.content == (*first.content, (answer_key("x", 0), 30), (prompt_key("x", 1), 40))
    source.close(second, 12.0, 10, completed=True)
    third = WorkloadRequest(
        "x#2", 12.0, 529, 9, priority=2, agent_id="a", session_id="x", turn=2, is_last_turn=True,
        content=((7, 512), (prompt_key("x", 0), 8), (prompt_key("x", 2), 9)),
    )  # fmt: skip
    assert source.take() == Arrival(third, 9, 520, ends_session=True)


def test_figures_of_sessions() -> None:
    """With memory for all of it nothing is lost, and what is computed are the new tokens."""
    result = run(make_sessions(4), SessionArrivals.at_once())
    figures = result.summary()
    sessions = figures["sessions"]
    done = by_id(result)
    assert (sessions["turns"], sessions["completed"]) == (12, 4)
    assert sessions["turns_per_s"] == pytest.approx(12 / max(r.finish_s for r in result.records))
    assert sessions["completion_s"]["mean"] == pytest.approx(
        sum(done[f"s{i}#2"].finish_s for i in range(4)) / 4
    )
    assert sessions["first_turn_wait_s"]["p50"] == sorted(done[f"s{i}#0"].ttft_s for i in range(4))[1]
    assert sessions["turn_s"]["p99"] == max(r.e2e_s for r in result.records)
    assert sessions["computed_per_new_token"] == result.totals.scheduled_tokens / (12 * 340)
    hits = sum(r.cached_tokens for r in result.records)
    assert hits == 4 * (336 + 672)
    assert figures["prefix_hit_rate"] == sessions["prefix_hit_rate"] == hits / (4 * (320 + 660 + 1000))
    assert figures["lost_prefix_tokens"] == figures["lost_prefix_share"] == 0
    assert {(r.session_id, r.turn): r.new_tokens for r in result.records}[("s3", 2)] == 320


def test_what_was_computed_before_and_evicted_is_lost() -> None:
    """Two sessions take turns in memory for one: each turn finds its past gone."""
    turns = (Turn(640, 9), *(Turn(64, 8, 3.0) for _ in range(3)))
    sessions = [Session("a", turns, start_s=0.0), Session("b", turns, start_s=1.5)]
    engine = EngineConfig(63, enable_prefix_caching=True)
    result = run(sessions, SessionArrivals.at_own_times(), engine)
    figures = result.summary()
    assert figures["preemptions"] == 0
    # Only whole blocks count: the last token's KV is computed with the next turn in any case.
    past = [(648 + 72 * k) // 16 * 16 for k in range(3)]
    lost = sum(
        tokens - r.cached_tokens
        for s in "ab"
        for k, tokens in enumerate(past)
        for r in [by_id(result)[f"{s}#{k + 1}"]]
    )
    assert figures["lost_prefix_tokens"] == lost > 2000
    assert figures["recomputed_tokens"] == 0
    assert figures["lost_prefix_share"] == lost / result.totals.scheduled_tokens
    uncached = run(sessions, SessionArrivals.at_own_times(), EngineConfig(63))
    assert uncached.totals.lost_prefix_tokens == 2 * sum(past)


def test_gaps_between_tokens() -> None:
    """Alone a request gets a token each step; the longest gap is exact, percentiles within 0.8 %."""
    result = run([Session("a", (Turn(50, 40),))], SessionArrivals.at_once())
    (record,) = result.records
    gaps = result.totals.token_gaps
    assert sum(count for _, count in gaps.counts()) == 39
    assert gaps.percentile(50) == pytest.approx(record.tpot_s, rel=0.02)
    assert gaps.percentile(100) == pytest.approx(gaps.longest_s, rel=0.008)
    assert result.summary()["longest_gap_s"] == gaps.longest_s > record.tpot_s


def test_a_cut_run_counts_lives_that_go_on() -> None:
    sessions = make_sessions(6, turns=4, gap_s=0.0, new_tokens=600)
    engine = EngineConfig(160, enable_prefix_caching=True)
    cut = run(sessions, SessionArrivals.at_once(), engine, duration_s=1.0)
    unfinished = {f"s{i}#{k}" for i in range(6) for k in range(4)} - set(by_id(cut))
    assert unfinished
    assert cut.summary()["sessions"]["turns_per_s"] == len(cut.records)
    assert cut.totals.lost_prefix_tokens > 0


def test_the_timeline_shows_idle_sessions() -> None:
    """Between its turns a session's full blocks are idle; after its last turn they belong to no session."""
    turns = (Turn(160, 17), Turn(32, 30, 2.0))
    sessions = [Session("a", turns, start_s=0.0), Session("b", (Turn(16, 400),), start_s=0.1)]
    timeline = run(sessions, SessionArrivals.at_own_times()).timeline
    values = [point.idle_session_blocks for point in timeline]
    assert set(values) == {0, 11}
    first, last = values.index(11), len(values) - values[::-1].index(11)
    assert set(values[first:last]) == {11}
    assert timeline[last].time_s - timeline[first].time_s == pytest.approx(2.0, abs=0.1)


def test_bad_input_is_named() -> None:
    twice = [Session("x", (Turn(1, 1),)), Session("x", (Turn(1, 1),))]
    with pytest.raises(SimulationError, match="'x' occurs twice"):
        SessionSource(twice, SessionArrivals.at_once())
    with pytest.raises(ValueError, match="patience_s must be above 0"):
        SessionSource(twice[:1], SessionArrivals.at_once(), patience_s=0.0)
    with pytest.raises(ValueError, match="duration_s must be finite"):
        run(twice[:1], SessionArrivals.at_once(), duration_s=0.0)
