"""The upper bound on turns a second: what it does at its ends, and that no policy passes it."""

from __future__ import annotations

import pytest

from bidkv.planning.session_bound import bound_turns_per_s
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol import Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, simulate_sessions

_PROFILE = load_profile("h100-llama3.1-8b-traffic")


def _sessions(gap_s: float) -> list[Session]:
    turns = (Turn(6000, 100), *(Turn(200, 100, gap_s),) * 7)
    return [Session(f"s{number}", turns) for number in range(60)]


def test_ample_memory_keeps_everything() -> None:
    bound = bound_turns_per_s(_sessions(1.0), _PROFILE, memory_tokens=10**9)
    assert bound.kept_share == 1.0
    assert not bound.binds_memory
    assert bound.turns_per_s == pytest.approx(1.0 / bound.machine_s)


def test_less_memory_and_longer_gaps_allow_less() -> None:
    bounds = [
        bound_turns_per_s(_sessions(2.0), _PROFILE, memory_tokens=m).turns_per_s for m in (10**5, 3 * 10**5)
    ]
    assert bounds[0] < bounds[1]
    slow = bound_turns_per_s(_sessions(20.0), _PROFILE, memory_tokens=10**5)
    assert slow.turns_per_s < bounds[0]
    assert slow.kept_share < 1.0
    assert slow.binds_memory


@pytest.mark.parametrize("policy", ["preempt-evict", "sessions", "clairvoyant-sessions"])
@pytest.mark.parametrize("gap_s", [0.5, 4.0])
def test_no_policy_passes_it(policy: str, gap_s: float) -> None:
    sessions = _sessions(gap_s)
    config = EngineConfig(num_gpu_blocks=8001, enable_prefix_caching=True)
    result = simulate_sessions(sessions, SessionArrivals.at_once(), resolve(policy), config, _PROFILE)
    bound = bound_turns_per_s(sessions, _PROFILE, memory_tokens=8000 * 16)
    assert 480 / result.simulated_s < bound.turns_per_s


def test_no_policy_passes_what_is_possible_without_knowing_gaps() -> None:
    gaps = (0.5, 1.0, 2.0, 40.0, 1.0, 0.5, 3.0)
    sessions = [
        Session(
            f"s{number}",
            (Turn(6000, 100), *(Turn(200, 100, gaps[(number + turn) % 7]) for turn in range(7))),
        )
        for number in range(60)
    ]
    config = EngineConfig(num_gpu_blocks=8001, enable_prefix_caching=True)
    known, unknown = (
        bound_turns_per_s(sessions, _PROFILE, memory_tokens=8000 * 16, clairvoyant=clairvoyant).turns_per_s
        for clairvoyant in (True, False)
    )
    assert unknown < known
    for policy in ("preempt-evict", "sessions"):
        result = simulate_sessions(sessions, SessionArrivals.at_once(), resolve(policy), config, _PROFILE)
        assert 480 / result.simulated_s < unknown


@pytest.mark.parametrize("gap_s", [0.5, 4.0, 20.0])
def test_knowing_gaps_is_worth_nothing_when_all_are_alike(gap_s: float) -> None:
    known, unknown = (
        bound_turns_per_s(_sessions(gap_s), _PROFILE, memory_tokens=10**5, clairvoyant=clairvoyant)
        for clairvoyant in (True, False)
    )
    assert unknown.turns_per_s == pytest.approx(known.turns_per_s, rel=0.01)


def test_shared_content_is_computed_once() -> None:
    alike = [Session(f"s{n}", (Turn(4096, 10, hash_ids=tuple(range(8))),)) for n in range(20)]
    own = [Session(f"s{n}", (Turn(4096, 10),)) for n in range(20)]
    shared, apart = (bound_turns_per_s(s, _PROFILE, memory_tokens=10**6).turns_per_s for s in (alike, own))
    assert shared > 5 * apart


def test_nothing_to_bound() -> None:
    with pytest.raises(ValueError, match="at least one session"):
        bound_turns_per_s([], _PROFILE, memory_tokens=100)
