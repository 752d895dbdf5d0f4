"""The session rate at which one replica keeps a latency target, found by simulation.

A session stays on one replica, so the replicas of a fleet do not touch each other: each serves sessions of
the same kind that start as a Poisson process at its share of the rate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, islice
from statistics import fmean

from bidkv.evaluation.latency_target import LatencyTarget
from bidkv.planning.session_traffic import shared_content
from bidkv.planning.sizing import RUNS, with_room, worst_of
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.results import nearest_rank
from bidkv.simulator import EngineConfig, simulate_sessions

FEWEST_SESSIONS, MOST_SESSIONS = 300, 3000
"""Sessions of one simulation: within these bounds so many that they start during :data:`LIFETIMES`."""

LIFETIMES = 8.0
"""Mean sessions that the time in which sessions start lasts."""

_WARM_UP = 1.0 / 3.0
"""Share of that time in which a replica fills; turns that arrive in it are not counted."""

_GROWTH, _CHANCE = 0.1, 2.0
"""Sessions pile up where the second half keeps more than this share of its own, and more than so many
standard deviations of their number, as in :mod:`bidkv.tournament.knee`."""

_UP, _DOWN, _NEAR = 1.3, 1.7, 1.06
"""Steps of the search from the guess, and the ratio at which it ends."""

_MOST_STEPS = 10

_SEED = 100

OnCheck = Callable[["SessionCheck"], None]


@dataclass(frozen=True, slots=True)
class SessionCheck:
    """One replica, simulated with sessions at a rate.

    Attributes:
        rate: sessions that start per second.
        ttft_p99_s: 99th percentile of the seconds to the first token, over turns.
        tpot_s: mean seconds per output token after the first.
        session_s: mean seconds from a session's first arrival to its last token, gaps included.
        is_growing: whether sessions pile up.
        holds: whether they do not, and the target is kept.
    """

    rate: float
    ttft_p99_s: float
    tpot_s: float
    session_s: float
    is_growing: bool
    holds: bool


def largest_rate(
    sessions: Sequence[Session],
    order: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    target: LatencyTarget,
    *,
    guess: float,
    session_s: float,
    on_check: OnCheck | None = None,
    seed: int = _SEED,
) -> SessionCheck | None:
    """Return the largest session rate of one replica that keeps the target; None when none does.

    As for fleets of single requests, a rate must keep the target in :data:`bidkv.planning.sizing.RUNS`
    simulations and with room below the bounds; a target so near to what an idle replica does that it leaves
    no room is kept without.

    Args:
        sessions: what they are like; they are repeated, under names of their own, where too few.
        order: a policy's name.
        engine: the replica's options, with prefix caching.
        profile: its step times.
        target: what turns must keep.
        guess: sessions per second where the search starts.
        session_s: seconds of a session, about.
        on_check: is told every simulated rate.
        seed: of the starts.
    """

    def trial(kept: LatencyTarget, rate: float) -> SessionCheck:
        number = min(max(math.ceil(LIFETIMES * rate * session_s), FEWEST_SESSIONS), MOST_SESSIONS)
        many = repeat_sessions(sessions, number)
        checks = (check_rate(many, order, engine, profile, kept, rate, seed + run) for run in range(RUNS))
        return worst_of(checks, on_check)

    for kept in (with_room(target), target):
        found = _search(partial(trial, kept), guess)
        if found is not None:
            return found
    return None


def _search(trial: Callable[[float], SessionCheck], guess: float) -> SessionCheck | None:
    best, first = None, trial(guess)
    too_high = math.inf
    if first.holds:
        best = first
        for _ in range(_MOST_STEPS):
            tried = trial(best.rate * _UP)
            if not tried.holds:
                too_high = tried.rate
                break
            best = tried
    else:
        too_high = guess
        for _ in range(_MOST_STEPS):
            tried = trial(too_high / _DOWN)
            if tried.holds:
                best = tried
                break
            too_high = tried.rate
    while best is not None and _NEAR * best.rate < too_high < math.inf:
        tried = trial(math.sqrt(best.rate * too_high))
        if tried.holds:
            best = tried
        else:
            too_high = tried.rate
    return best


def check_rate(
    sessions: Sequence[Session],
    order: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    target: LatencyTarget,
    rate: float,
    seed: int,
) -> SessionCheck:
    """Simulate one replica with all of the sessions and judge it.

    Turns count that arrive before the last session starts, and not in the first third of the time until then.

    Args:
        sessions: in the order in which they start.
        order: name of the policy.
        engine: the replica.
        profile: its step times.
        target: what it must keep.
        rate: sessions that start a second, as a Poisson process.
        seed: of the starts.
    """
    arrivals = SessionArrivals.at_rate(rate, seed=seed)
    starts_s = [start_s or 0.0 for start_s in arrivals.start_times(sessions)]
    result = simulate_sessions(sessions, arrivals, resolve(order), engine, profile, timeline_points=2)
    last_s = starts_s[-1]
    counted = [r for r in result.records if _WARM_UP * last_s <= r.arrival_s <= last_s]
    waits = sorted(r.ttft_s for r in counted if r.ttft_s is not None)
    ttft_p99_s = nearest_rank(waits, 99.0) if waits else math.inf
    paces = [r.tpot_s for r in counted if r.tpot_s is not None]
    tpot_s = fmean(paces) if paces else 0.0
    ends = {r.session_id: r.finish_s for r in result.records if r.ends_session and r.finish_s is not None}
    ends_s = sorted(ends.values())
    began = len(starts_s) - bisect_right(starts_s, last_s / 2)
    ended = bisect_right(ends_s, last_s) - bisect_right(ends_s, last_s / 2)
    growing = began - ended > max(_GROWTH * began, _CHANCE * math.sqrt(began))
    lives = [
        ends[session.session_id] - start_s
        for session, start_s in zip(sessions, starts_s, strict=True)
        if session.session_id in ends
    ]
    return SessionCheck(
        rate=rate,
        ttft_p99_s=ttft_p99_s,
        tpot_s=tpot_s,
        session_s=fmean(lives) if lives else math.inf,
        is_growing=growing,
        holds=not growing
        and (target.ttft_s is None or ttft_p99_s <= target.ttft_s)
        and (target.tpot_s is None or tpot_s <= target.tpot_s),
    )


def repeat_sessions(sessions: Sequence[Session], number: int) -> list[Session]:
    """Return `number` sessions: these, and again these under other names and with content of their own.

    Content that several sessions begin with stays shared.
    """
    shared = shared_content(sessions)
    used = {hash_id for session in sessions for turn in session.turns for hash_id in turn.hash_ids}
    unused = (hash_id for hash_id in count() if hash_id not in used)

    def again(session: Session, copy: int) -> Session:
        own = {h for turn in session.turns for h in turn.hash_ids} - shared
        renamed = dict(zip(sorted(own), unused, strict=False))
        turns = tuple(
            replace(turn, hash_ids=tuple(renamed.get(h, h) for h in turn.hash_ids)) for turn in session.turns
        )
        return replace(session, session_id=f"{session.session_id}~{copy}", turns=turns)

    copies = (again(session, copy) for copy in count(1) for session in sessions)
    return list(islice(chain(sessions, copies), number))
