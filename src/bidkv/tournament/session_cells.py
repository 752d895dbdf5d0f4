"""Run the cells of one group of a tournament of sessions, and keep their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.simulator import EngineConfig, simulate_sessions
from bidkv.tournament.fingerprints import engine_fingerprint
from bidkv.tournament.knee import MakeSessions, find_knee, number_in
from bidkv.tournament.plan import BASELINE
from bidkv.tournament.session_plan import (
    SessionCell,
    SessionGroup,
    SessionPlan,
    load_machine,
    make_engine,
)
from bidkv.tournament.session_scores import SessionScore
from bidkv.tournament.store import ScoreStore
from bidkv.workloads.session_families import SESSION_FAMILIES

_STAGGER_S = 0.2
"""Seconds between the starts of the first concurrent sessions, as in the recorded runs."""

_MOST_CONCURRENT = 1000
"""Most concurrent sessions of a closed run, however short their contexts are."""

_SHORTEST_S = 25.0
"""Seconds that a session lasts at least, on average, whatever the policy."""

_SAMPLE = 100
"""Sessions whose contexts tell how many the memory holds."""

_FEWEST = 30
"""Fewest sessions of an open run."""


@dataclass(frozen=True, slots=True)
class SessionGroupScores:
    """The result of one group.

    Attributes:
        knees: sessions per second that each policy sustains, as far as the plan asks for it.
        resident: sessions whose contexts the memory holds.
        scores: by cell, then by policy; empty where no session of the family fits into the memory.
        turns: turns simulated for it; stored scores cost none.
        wall_s: seconds it took.
    """

    knees: dict[str, float]
    resident: int
    scores: dict[SessionCell, dict[str, SessionScore]]
    turns: int
    wall_s: float


def run_session_group(plan: SessionPlan, group: SessionGroup, output_dir: Path | None) -> SessionGroupScores:
    """Run every cell and policy of a group that is not stored yet. Equal arguments give equal scores."""
    started = time.perf_counter()
    profile, engine = load_machine(group.machine), make_engine(group.machine, group.size)
    tokens = engine.usable_blocks * engine.block_size

    def make_sessions(number: int) -> list[Session]:
        return _fitting(SESSION_FAMILIES[group.family](number, group.seed), tokens)

    sample = make_sessions(_SAMPLE)
    if len(sample) < _SAMPLE / 2:
        return SessionGroupScores({}, 0, {}, 0, time.perf_counter() - started)
    resident = count_resident(sample, tokens)
    store = _open_store(plan, group, engine, output_dir)

    def knee(spec: str) -> float:
        rate = store.knee(spec)
        if rate is None:
            rate = find_knee(make_sessions, spec, engine, profile, plan.open_s, group.seed)
            store.keep_knee(spec, rate)
            store.save()
        return rate

    turns = 0
    for cell in plan.cells(group):
        scores = store.scores(f"{cell.mode}:{cell.level!r}")
        missing = [spec for spec in plan.policies if spec not in scores]
        if not missing:
            continue
        if cell.mode == "closed":
            run, arrivals, duration_s = _make_closed(plan, cell, make_sessions, resident)
        else:
            run, arrivals, duration_s = _make_open(plan, cell, make_sessions, knee(BASELINE))
        warm_up_s = plan.warm_up_s if cell.mode == "closed" else 0.0
        for spec in missing:
            scores[spec] = _play(run, arrivals, spec, engine, profile, duration_s, warm_up_s)
            turns += sum(len(session.turns) for session in run)
        store.save()
    cells = {
        cell: {spec: store.scores(f"{cell.mode}:{cell.level!r}")[spec] for spec in plan.policies}
        for cell in plan.cells(group)
    }
    asked = plan.policies if plan.finds_knees else (BASELINE,) if plan.loads else ()
    knees = {spec: knee(spec) for spec in asked}
    return SessionGroupScores(knees, resident, cells, turns, time.perf_counter() - started)


def count_resident(sessions: Sequence[Session], tokens: int) -> int:
    """Return how many sessions the memory holds at once: its tokens over the mean context of a turn."""
    contexts = [
        prompt + turn.output_tokens
        for session in sessions
        for prompt, turn in zip(session.prompt_lengths(), session.turns, strict=True)
    ]
    return max(int(tokens * len(contexts) / sum(contexts)), 1)


def _fitting(sessions: Sequence[Session], tokens: int) -> list[Session]:
    """Leave out sessions of which a turn exceeds the whole memory."""
    return [
        session
        for session in sessions
        if max(p + t.output_tokens for p, t in zip(session.prompt_lengths(), session.turns, strict=True))
        < tokens
    ]


def _make_open(
    plan: SessionPlan, cell: SessionCell, make_sessions: MakeSessions, knee_rate: float
) -> tuple[Sequence[Session], SessionArrivals, float | None]:
    rate = cell.level * knee_rate
    arrivals = SessionArrivals.at_rate(rate, seed=cell.seed)
    return make_sessions(max(number_in(plan.open_s, rate), _FEWEST)), arrivals, None


def _make_closed(
    plan: SessionPlan, cell: SessionCell, make_sessions: MakeSessions, resident: int
) -> tuple[Sequence[Session], SessionArrivals, float | None]:
    concurrent = min(max(round(cell.level * resident), 1), _MOST_CONCURRENT)
    arrivals = SessionArrivals.at_concurrency(concurrent, stagger_s=_STAGGER_S)
    # So many that they do not run out before the cut, or every policy would complete the same turns.
    duration_s = plan.warm_up_s + plan.closed_s
    lifetimes = math.ceil(duration_s / _SHORTEST_S)
    return make_sessions(max(_SAMPLE, lifetimes * concurrent)), arrivals, duration_s


def _play(
    sessions: Sequence[Session],
    arrivals: SessionArrivals,
    spec: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    duration_s: float | None,
    warm_up_s: float,
) -> SessionScore:
    result = simulate_sessions(
        sessions,
        arrivals,
        resolve(spec),
        engine,
        profile,
        timeline_points=2,
        duration_s=duration_s,
    )
    return SessionScore.from_run(result, warm_up_s=warm_up_s)


def _open_store(
    plan: SessionPlan, group: SessionGroup, engine: EngineConfig, output_dir: Path | None
) -> ScoreStore[SessionScore]:
    made_by = {
        "engine": engine_fingerprint(),
        "machine": group.machine,
        "num_gpu_blocks": engine.num_gpu_blocks,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "open_s": plan.open_s,
        "closed_s": plan.closed_s,
        "warm_up_s": plan.warm_up_s,
    }
    file = None
    if output_dir is not None:
        folder = output_dir / "sessions" / group.machine / group.size
        file = folder / f"{group.family}-{group.seed}.json"
    return ScoreStore(file, made_by, SessionScore)
