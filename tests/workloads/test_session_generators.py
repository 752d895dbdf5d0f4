"""Session workloads: bounded, repeatable, after their sources, and families that stay what is pinned."""

import math
import statistics
from itertools import islice

import pytest

from bidkv.protocol.sessions import Session
from bidkv.workloads import available_session_workloads, generate_sessions
from bidkv.workloads.families import read_pins, split_seeds
from bidkv.workloads.session_families import SESSION_FAMILIES, session_fingerprint

NAMES = available_session_workloads()


def largest_context(session: Session) -> int:
    return max(
        prompt + turn.output_tokens
        for prompt, turn in zip(session.prompt_lengths(), session.turns, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_everything(name: str) -> None:
    once, again, other = (list(generate_sessions(name, n=60, seed=s)) for s in (5, 5, 6))
    assert once == again
    assert once != other
    assert list(generate_sessions(name, n=20, seed=5)) == once[:20]


@pytest.mark.parametrize("name", NAMES)
def test_sessions_are_well_formed_and_stay_within_the_window(name: str) -> None:
    window = 9000
    sessions = list(generate_sessions(name, n=400, seed=1, max_context_tokens=window))
    assert len({s.session_id for s in sessions}) == 400
    for session in sessions:
        # The single requests of mixed-sessions have bounds of their own.
        if name != "mixed-sessions" or len(session.turns) > 1:
            assert largest_context(session) <= window
        for turn in session.turns:
            assert len(turn.hash_ids) in (0, math.ceil(turn.new_tokens / 512))
            assert turn.gap_s == round(turn.gap_s, 3)
        assert {t.gap_kind for t in session.turns[1:]} <= {"tool", "human"}


def test_agents_follow_the_published_figures() -> None:
    """TraceLab: 16, 152 and 1,236 turns at p50, p90 and p99; tool gaps of 0.3 and 13.6 s at p50 and p90."""
    free = {"max_context_tokens": 50_000_000, "max_gap_s": 1e6, "human_share": 0.1}
    sessions = list(generate_sessions("agents", n=3000, seed=0, **free))
    turns = sorted(len(s.turns) for s in sessions)
    assert turns[1500] == pytest.approx(16, rel=0.1)
    assert turns[2700] == pytest.approx(163, rel=0.15)
    tool = sorted(t.gap_s for s in sessions for t in s.turns if t.gap_kind == "tool")
    human = sorted(t.gap_s for s in sessions for t in s.turns if t.gap_kind == "human")
    assert tool[len(tool) // 2] == pytest.approx(0.3, rel=0.05)
    assert tool[len(tool) * 9 // 10] == pytest.approx(13.6, rel=0.05)
    assert human[len(human) // 2] == pytest.approx(84, rel=0.05)
    assert human[len(human) * 9 // 10] == pytest.approx(1236, rel=0.05)
    assert len(human) / (len(human) + len(tool)) == pytest.approx(0.1, abs=0.003)
    outputs = [t.output_tokens for s in sessions for t in s.turns]
    assert statistics.mean(outputs) == pytest.approx(500, rel=0.03)


def test_agentic_code_is_like_the_sessions_aiperf_makes() -> None:
    """AIPerf 0.13 with the same parameters: 12.6 turns, 297 output tokens, gaps of 7.7 s, 22,329 tokens."""
    sessions = SESSION_FAMILIES["agentic-code"](1000, 1)
    turns = [t for s in sessions for t in s.turns]
    assert len(turns) / 1000 == pytest.approx(12.6, rel=0.1)
    assert statistics.mean(t.output_tokens for t in turns) == pytest.approx(297, rel=0.05)
    assert statistics.mean(t.gap_s for s in sessions for t in s.turns[1:]) == pytest.approx(7.7, rel=0.1)
    assert statistics.mean(map(largest_context, sessions)) == pytest.approx(22_329, rel=0.05)


def test_content_is_shared_by_all_by_groups_and_by_samples_of_a_prompt() -> None:
    sessions = list(generate_sessions("agents", n=500, seed=2))
    assert {s.turns[0].hash_ids[:5] for s in sessions} == {tuple(range(5))}
    by_group = {s.agent_id: s.turns[0].hash_ids[5:8] for s in sessions}
    assert len(set(by_group.values())) == len(by_group) == 12
    assert all(s.turns[0].hash_ids[5:8] == by_group[s.agent_id] for s in sessions)
    own = [i for s in sessions for i in s.turns[0].hash_ids[8:]]
    assert len(own) == len(set(own))
    assert not set(own) & {i for s in sessions for i in s.turns[0].hash_ids[:8]}

    samples = list(islice(generate_sessions("rollouts", n=64, seed=2), 64))
    assert [s.turns[0].hash_ids for s in samples[:16]] == [samples[0].turns[0].hash_ids] * 16
    assert samples[16].turns[0].hash_ids != samples[0].turns[0].hash_ids


def test_a_full_context_is_compacted_where_the_client_does_so() -> None:
    sessions = SESSION_FAMILIES["compacting"](100, 1)
    rewrites = [t.kept_tokens for s in sessions for t in s.turns if t.kept_tokens is not None]
    assert set(rewrites) == {7000}
    assert max(map(largest_context, sessions)) <= 28_000
    assert max(len(s.turns) for s in sessions) > 100


def test_mixed_sessions_hold_the_stated_share_of_single_requests() -> None:
    sessions = list(generate_sessions("mixed-sessions", n=4000, seed=3, single_share=0.6, turns_median=9.0))
    single = sum(len(s.turns) == 1 and not s.turns[0].hash_ids for s in sessions)
    assert single / 4000 == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("agent", {}, "unknown session workload 'agent'; there are: agents, chat-sessions"),
        ("agents", {"shape": 1.0}, "has no parameter 'shape'; it has: turns_median"),
        ("agents", {"n": 0}, "n must be at least 1"),
        ("agents", {"shared_tokens": 1000}, "shared_tokens must be a multiple of 512"),
        ("agents", {"human_share": 1.5}, "human_share must be from 0 to 1"),
        ("agents", {"tool_gap_median_s": 0.0}, "gaps need 0 < median_s"),
        ("agents", {"max_context_tokens": 100}, "max_context_tokens must be a whole number from 5120"),
        ("chat-sessions", {"mean_turns": 0.5}, "mean_turns must be from 1"),
        ("rollouts", {"samples": 0}, "samples must be a whole number from 1"),
        ("mixed-sessions", {"single_share": -1.0}, "single_share must be from 0 to 1"),
        ("mixed-sessions", {"new_sigma": 9.0}, "sigma"),
    ],
)
def test_mistakes_are_named_at_the_call(name: str, arguments: dict[str, float], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        generate_sessions(name, **{"n": 10, "seed": 0} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(SESSION_FAMILIES))
def test_every_family_still_makes_what_is_pinned(name: str) -> None:
    seeds = split_seeds("tuning") + split_seeds("held_out")
    sessions = [s for seed in seeds for s in SESSION_FAMILIES[name](50, seed)]
    assert session_fingerprint(sessions) == read_pins()["session_fingerprints"][name]


def test_no_two_families_make_the_same_sessions() -> None:
    fingerprints = read_pins()["session_fingerprints"]
    assert set(fingerprints) == set(SESSION_FAMILIES)
    assert len(set(fingerprints.values())) == len(SESSION_FAMILIES)
