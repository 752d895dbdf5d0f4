"""The knee of a policy: the session rate at which its queue stops being stable, found by bisection."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.simulator import EngineConfig, simulate_sessions

MakeSessions = Callable[[int], Sequence[Session]]
"""Returns the first sessions of a workload, as many as asked for."""

_GROWTH = 0.1
"""The queue grows when more than this share of the sessions of the second half stays behind."""

_CHANCE = 2.0
"""It grows only by more than this many standard deviations of a Poisson number of sessions."""

_STEPS = 6
"""Halvings of the bracket in the logarithm: a bracket of a factor of 2 leaves 1 %."""

_WIDENINGS = 8
"""Doublings or halvings of the first guess until the knee lies within a factor of 2."""

_GUESSING = 60
"""Sessions of the run that gives the first guess."""


def find_knee(
    make_sessions: MakeSessions,
    policy: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    window_s: float,
    seed: int = 0,
) -> float:
    """Return the largest session rate, in sessions per second, at which the queue does not grow.

    Sessions start as a Poisson process for `window_s` seconds. The queue grows when the sessions that are
    alive become more in the second half of that window, by more than chance explains.

    Args:
        make_sessions: the workload.
        policy: a policy's name.
        engine: the engine's options.
        profile: step times.
        window_s: seconds in which sessions start; at least a few times as long as a session lasts.
        seed: of the arrivals.
    """

    def is_stable(rate: float) -> bool:
        return not _grows(make_sessions, policy, engine, profile, rate, window_s, seed)

    rate = _guess_rate(make_sessions(_GUESSING), policy, engine, profile)
    stable = is_stable(rate)
    low, high = (rate, math.inf) if stable else (0.0, rate)
    for _ in range(_WIDENINGS):
        rate = rate * 2.0 if stable else rate / 2.0
        if is_stable(rate):
            low = max(low, rate)
        else:
            high = min(high, rate)
        if low > 0.0 and high < math.inf:
            break
    if low == 0.0 or high == math.inf:
        return rate
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_stable(middle) else (low, middle)
    return low


def number_in(window_s: float, rate: float) -> int:
    """Return how many sessions to make so that at a rate about as many as wanted start in a window."""
    return max(math.ceil(rate * window_s), 1)


def _guess_rate(
    sessions: Sequence[Session], policy: str, engine: EngineConfig, profile: StepTimeProfile
) -> float:
    """Return the sessions per second that complete when all of them start at once."""
    result = simulate_sessions(
        sessions, SessionArrivals.at_once(), resolve(policy), engine, profile, timeline_points=2
    )
    return len(sessions) / result.span_s


def _grows(
    make_sessions: MakeSessions,
    policy: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    rate: float,
    window_s: float,
    seed: int,
) -> bool:
    arrivals = SessionArrivals.at_rate(rate, seed=seed)
    sessions = make_sessions(number_in(1.2 * window_s, rate))
    starts_s = [start for start in arrivals.start_times(sessions) if start is not None and start <= window_s]
    sessions = sessions[: len(starts_s)]
    if len(sessions) < 2:
        return False
    result = simulate_sessions(
        sessions, arrivals, resolve(policy), engine, profile, timeline_points=2, duration_s=window_s
    )
    ends_s = sorted(r.finish_s for r in result.records if r.ends_session and r.finish_s is not None)
    half_s = window_s / 2
    arrived = len(starts_s) - bisect_right(starts_s, half_s)
    left = len(ends_s) - bisect_right(ends_s, half_s)
    return arrived - left > max(_GROWTH * arrived, _CHANCE * math.sqrt(arrived))
