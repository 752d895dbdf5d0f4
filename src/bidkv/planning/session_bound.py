"""Upper bounds on the turns a second that any policy can reach with sessions, from memory and machine time.

    python -m bidkv.planning.session_bound agents-20-turns 20000

Every turn either finds its past cached, which holds memory through the gap before it, or computes it again,
which takes machine time. With x the share of each turn's past that is kept, n the mean number of requests
that decode in a step, s(n) the time of such a step and D the decode steps of a turn, R turns a second need

    R * mean(D * s(n) / n + w + (1 - x) * lost) <= 1               (machine seconds a second)
    R * mean(D * context * s(n) + past * x * gap) <= memory        (token seconds a second)

Many together share the fixed time of a step, and hold memory that idle sessions then cannot. For each n the
largest R is a linear program with two constraints: what saves most machine time for its token seconds is kept
first, until both bind. Every figure is on the optimistic side: computing a prompt lengthens nobody's service
and holds nothing, and nothing waits. Step times are taken to be convex in n (what is measured is, but for the
padding of small batches).

Two bounds: `clairvoyant` knows every gap in advance. Without that a session can only be kept until some idle
time and then be dropped. If gaps tell nothing about each other or about lengths, what keeping for a time t
brings is the share of gaps up to t for the mean of min(gap, t); no policy does better than the concave hull
of these points.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session, SessionArrivals

_FINENESS = 1.04
"""Ratio of neighbours among the numbers of decoding requests that are tried."""

_BOUNDED, _MOST_RUN = 500, 4000
"""Sessions that the printed bounds are computed from, and those that runs beside them may start."""


@dataclass(frozen=True, slots=True)
class SessionBound:
    """The bound and what it rests on.

    Attributes:
        turns_per_s: no policy reaches more in the long run.
        kept_share: share of the past tokens that the optimum keeps through their gaps.
        machine_s: machine seconds a turn at the optimum.
        binds_memory: whether memory binds; otherwise keeping everything is free and the machine alone binds.
        decoding: mean number of requests that decode in a step at the optimum.
    """

    turns_per_s: float
    kept_share: float
    machine_s: float
    binds_memory: bool
    decoding: float


@dataclass(frozen=True, slots=True)
class _Keepable:
    """Past tokens that can be kept through a gap, or the next part of it.

    Attributes:
        saved_s: machine seconds that keeping saves.
        token_seconds: what it holds.
        past: tokens that it saves from being computed again.
    """

    saved_s: float
    token_seconds: float
    past: float


def bound_turns_per_s(
    sessions: Sequence[Session],
    profile: StepTimeProfile,
    *,
    memory_tokens: int,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    clairvoyant: bool = True,
) -> SessionBound:
    """Return the upper bound for sessions like these, in the long run.

    Args:
        sessions: the workload; every turn counts alike.
        profile: the machine's step times.
        memory_tokens: tokens of KV that fit.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: token budget of a step.
        clairvoyant: whether gaps are known in advance.

    Raises:
        ValueError: no sessions, or no memory.
    """
    if not sessions or memory_tokens < 1:
        raise ValueError("expected at least one session and memory for at least one token")
    timed = profile.for_engine(max_num_seqs, max_num_batched_tokens)
    budget = max_num_batched_tokens
    prefill_s = decoded = held = 0.0
    # Of every later turn: machine seconds that keeping its past saves, its tokens, its gap.
    returns: list[tuple[float, int, float]] = []
    turns = 0
    seen: set[int] = set()  # content of earlier sessions, which costs nothing here
    for session in sessions:
        past = 0
        for turn, prompt in zip(session.turns, session.prompt_lengths(), strict=True):
            kept = past if turn.kept_tokens is None else turn.kept_tokens
            context = prompt + turn.output_tokens
            # The machine seconds that one more prefill token adds to a step that runs anyway.
            filled_s = timed.step_s(budget, budget * budget * 0.5, 1, context + budget, 1)
            token_s = max(0.0, filled_s - timed.step_s(0, 0.0, 1, context + budget, 0)) / budget
            known = sum(1 for _ in takewhile(seen.__contains__, turn.hash_ids)) * session.chunk_tokens
            seen.update(turn.hash_ids)
            prefill_s += max(0, prompt - kept - known) * token_s
            decoded += turn.output_tokens
            held += turn.output_tokens * (prompt + 0.5 * turn.output_tokens)
            if kept:
                returns.append((kept * token_s, kept, turn.gap_s))
            past = context
            turns += 1
    keepable = _by_gap(returns) if clairvoyant else _by_idle_time(returns)
    lost_s = sum(saved_s for saved_s, _, _ in returns)
    all_tokens = sum(past for _, past, _ in returns)
    mean_context = held / decoded if decoded else 0.0
    best: SessionBound | None = None
    for fewer, more in pairwise(
        _numbers(min(max_num_seqs, max(1.0, memory_tokens / max(mean_context, 1.0))))
    ):
        # Between two numbers tried, the better end of each constraint.
        decode_s = decoded * timed.step_s(0, 0.0, max(1, int(more)), int(more * mean_context), 0) / more
        served = held * timed.step_s(0, 0.0, max(1, int(fewer)), int(fewer * mean_context), 0)
        found = _solve(
            prefill_s + lost_s + decode_s, served, keepable, memory_tokens, all_tokens, turns, more
        )
        if best is None or found.turns_per_s > best.turns_per_s:
            best = found
    assert best is not None
    return best


def _numbers(most: float) -> Iterator[float]:
    number = 1.0
    while number < most:
        yield number
        number *= _FINENESS
    yield most
    if most == 1.0:
        yield most


def _solve(
    machine_s: float,
    served: float,
    keepable: Sequence[_Keepable],
    memory_tokens: int,
    all_tokens: int,
    turns: int,
    decoding: float,
) -> SessionBound:
    """Keep what pays most, until memory is as scarce as the machine."""
    kept_tokens = 0.0
    binds_memory = False
    for part in keepable:
        slack = machine_s * memory_tokens - served
        share = min(1.0, max(0.0, slack / (part.token_seconds + part.saved_s * memory_tokens)))
        machine_s -= share * part.saved_s
        served += share * part.token_seconds
        kept_tokens += share * part.past
        if share < 1.0:
            binds_memory = True
            break
    needed_s = max(machine_s, served / memory_tokens)
    kept_share = kept_tokens / all_tokens if all_tokens else 1.0
    return SessionBound(turns / needed_s, kept_share, machine_s / turns, binds_memory, decoding)


def _by_gap(returns: Sequence[tuple[float, int, float]]) -> list[_Keepable]:
    """Every past by itself, the shortest gaps first: what a clairvoyant chooses from."""
    return [_Keepable(saved_s, past * gap_s, past) for saved_s, past, gap_s in sorted(returns, key=_cost)]


def _cost(item: tuple[float, int, float]) -> float:
    saved_s, past, gap_s = item
    return past * gap_s / saved_s if saved_s else math.inf


def _by_idle_time(returns: Sequence[tuple[float, int, float]]) -> list[_Keepable]:
    """Keeping everything for longer and longer: the concave hull, steepest part first."""
    saved_s = sum(saved for saved, _, _ in returns)
    tokens = sum(past for _, past, _ in returns)
    # (mean time kept, share that returned in it) for every idle time at which one might give up
    hull = [(0.0, 0.0)]
    gaps = sorted(gap for _, _, gap in returns)
    kept_s = last_s = 0.0
    for number, gap_s in enumerate(gaps):
        kept_s += (gap_s - last_s) * (len(gaps) - number) / len(gaps)
        last_s = gap_s
        point = kept_s, (number + 1) / len(gaps)
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [
        _Keepable(saved_s * (b - a), tokens * (later - sooner), tokens * (b - a))
        for (sooner, a), (later, b) in pairwise(hull)
    ]


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0]) if end[0] > start[0] else math.inf


def _main(
    family: str,
    blocks: str = "20000",
    profile: str = "h100-llama3.1-8b-async",
    policies: str = "",
    times_resident: str = "4",
) -> None:
    """Print both bounds for sessions of a family, and what policies reach of them in half an hour.

    The policies run in closed loop, as vLLM runs by default, with so many times the sessions that memory
    holds.
    """
    from bidkv.policy import resolve
    from bidkv.profiles import load_profile
    from bidkv.simulator import EngineConfig, simulate_sessions
    from bidkv.workloads.session_families import SESSION_FAMILIES

    timed, tokens = load_profile(profile), int(blocks) * 16
    sessions = [
        session
        for session in SESSION_FAMILIES[family](n=_MOST_RUN if policies else _BOUNDED, seed=1)
        if max(session.prompt_lengths()) + 4096 < tokens
    ]
    some = sessions[:_BOUNDED]
    bounds = []
    for title, clairvoyant in (("gaps known", True), ("gaps unknown", False)):
        bound = bound_turns_per_s(some, timed, memory_tokens=tokens, clairvoyant=clairvoyant)
        bounds.append((title, bound.turns_per_s))
        binds = "memory binds" if bound.binds_memory else "the machine binds"
        print(
            f"{family}, {blocks} blocks, {title}: at most {bound.turns_per_s:.2f} turns/s, keeping "
            f"{bound.kept_share:.0%} of the past tokens through their gaps, {bound.decoding:.0f} decoding "
            f"together; {binds}"
        )
    if not policies:
        return
    config = EngineConfig(num_gpu_blocks=int(blocks), enable_prefix_caching=True, async_scheduling=True)
    contexts = [length for session in some for length in session.prompt_lengths()]
    concurrent = max(2, round(float(times_resident) * tokens * len(contexts) / sum(contexts)))
    base = 0.0
    for name in ("preempt-evict", *policies.split(",")):
        arrivals = SessionArrivals.at_concurrency(concurrent, stagger_s=0.2)
        result = simulate_sessions(sessions, arrivals, resolve(name), config, timed, duration_s=1800.0)
        reached = result.summary()["sessions"]["turns_per_s"]
        base = base or reached
        shares = ", ".join(
            f"{(reached - base) / (most - base):.0%} of the gain that is possible with {title}"
            for title, most in bounds
            if most > base
        )
        print(f"{name}, {concurrent} sessions at once: {reached:.2f} turns/s; {shares}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
