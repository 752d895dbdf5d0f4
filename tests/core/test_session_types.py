"""Sessions as data: what is refused, how long prompts get, and when sessions start."""

import statistics
from typing import Any

import pytest

from bidkv.protocol import Session, SessionArrivals, Turn


def session(*turns: Turn, **fields: Any) -> Session:
    return Session("s", turns or (Turn(10, 5),), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"new_tokens": 0}, "new_tokens must be at least 1, not 0"),
        ({"output_tokens": 0}, "output_tokens must be at least 1, not 0"),
        ({"gap_s": -1.0}, "gap_s must be a finite number"),
        ({"gap_s": float("nan")}, "gap_s must be a finite number"),
        ({"max_tokens": 0}, "max_tokens must be at least 1 or None"),
        ({"kept_tokens": -1}, "kept_tokens must be at least 0 or None"),
    ],
)
def test_a_turn_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Turn(**{"new_tokens": 10, "output_tokens": 5, **fields})


@pytest.mark.parametrize(
    ("turns", "fields", "message"),
    [
        ((), {}, "session 's' must have at least one turn"),
        ((Turn(1, 1),), {"start_s": float("inf")}, "start_s must be finite"),
        ((Turn(1, 1),), {"weight": 0.0}, "weight must be finite and above 0"),
        ((Turn(1, 1),), {"chunk_tokens": 0}, "chunk_tokens must be at least 1"),
        ((Turn(1, 1, gap_s=1.0),), {}, "the first turn follows no answer"),
        ((Turn(512, 1, hash_ids=(1, 2)),), {}, "2 hash_ids of 512 tokens cover more than its 512 new tokens"),
        (
            (Turn(10, 5), Turn(1, 1, kept_tokens=16)),
            {},
            "at most the 15 tokens of the context before it, not 16",
        ),
    ],
)
def test_a_session_refuses(turns: tuple[Turn, ...], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Session("s", turns, **fields)
    with pytest.raises(ValueError, match="session_id"):
        Session("", (Turn(1, 1),))


def test_a_partial_last_chunk_is_allowed() -> None:
    assert session(Turn(513, 1, hash_ids=(1, 2))).prompt_lengths() == [513]


def test_prompts_hold_the_past_that_is_kept_and_the_new_tokens() -> None:
    turns = (Turn(100, 10), Turn(20, 5), Turn(7, 3, kept_tokens=120), Turn(1, 1))
    assert session(*turns).prompt_lengths() == [100, 130, 127, 131]


def test_closed_arrivals_leave_the_rest_to_the_ends_of_earlier_sessions() -> None:
    sessions = [session()] * 4
    assert SessionArrivals.at_concurrency(2, stagger_s=0.2).start_times(sessions) == [0.0, 0.2, None, None]
    assert SessionArrivals.at_once().start_times(sessions) == [0.0] * 4


def test_own_start_times_must_be_there() -> None:
    assert SessionArrivals.at_own_times().start_times([session(start_s=3.0)]) == [3.0]
    with pytest.raises(ValueError, match="session 's' has no start time"):
        SessionArrivals.at_own_times().start_times([session()])


@pytest.mark.parametrize("burstiness", [1.0, 0.25])
def test_open_arrivals_keep_rate_and_burstiness(burstiness: float) -> None:
    sessions = [session()] * 20_000
    times = SessionArrivals.at_rate(2.0, burstiness=burstiness, seed=3).start_times(sessions)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False) if a is not None and b is not None]
    assert statistics.mean(gaps) == pytest.approx(0.5, rel=0.05)
    assert statistics.stdev(gaps) / 0.5 == pytest.approx(burstiness**-0.5, rel=0.05)
    assert times == SessionArrivals.at_rate(2.0, burstiness=burstiness, seed=3).start_times(sessions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "never"}, "must be one of rate, concurrent, at-once, own, not 'never'"),
        ({"kind": "rate", "rate": 0.0}, "the session rate must be finite and above 0"),
        ({"kind": "rate", "rate": 1.0, "burstiness": 0.0}, "burstiness must be finite and above 0"),
        ({"kind": "concurrent"}, "the number of concurrent sessions must be at least 1"),
        ({"kind": "at-once", "stagger_s": -1.0}, "stagger_s must be finite and at least 0"),
    ],
)
def test_arrivals_refuse(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SessionArrivals(**fields)
