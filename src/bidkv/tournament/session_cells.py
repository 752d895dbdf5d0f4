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


@dataclass(frozen=True, slots=True)
class SessionCellRun:
    """What every policy of a cell is given.

    Attributes:
        sessions: in the order in which they start.
        arrivals: when they do.
        duration_s: simulated seconds until the cut; None: until the last session ends.
        warm_up_s: seconds at the start that do not count.
    """

    sessions: Sequence[Session]
    arrivals: SessionArrivals
    duration_s: float | None
    warm_up_s: float


def run_session_group(plan: SessionPlan, group: SessionGroup, output_dir: Path | None) -> SessionGroupScores:
    """Run every cell and policy of a group that is not stored yet. Equal arguments give equal scores."""
    started = time.perf_counter()
    profile, engine = load_machine(group.machine), make_engine(group.machine, group.size)
    tokens = engine.usable_blocks * engine.block_size

    make_sessions = session_maker(group.family, group.seed, tokens)
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
        run = make_run(plan, cell, make_sessions, resident if cell.mode == "closed" else knee(BASELINE))
        for spec in missing:
            scores[spec] = play_run(run, spec, engine, profile)
            turns += sum(len(session.turns) for session in run.sessions)
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


def session_maker(family: str, seed: int, tokens: int) -> MakeSessions:
    """Return what makes the first sessions of a family, those left out of which a turn exceeds the memory."""

    def make_sessions(number: int) -> list[Session]:
        return [
            session
            for session in SESSION_FAMILIES[family](number, seed)
            if max(p + t.output_tokens for p, t in zip(session.prompt_lengths(), session.turns, strict=True))
            < tokens
        ]

    return make_sessions


def make_run(
    plan: SessionPlan, cell: SessionCell, make_sessions: MakeSessions, reference: float
) -> SessionCellRun:
    """Return what is run for a cell.

    Args:
        plan: of the tournament.
        cell: one of its cells.
        make_sessions: makes so many sessions of the cell's family and seed.
        reference: what the cell's level is a multiple of: sessions per second at the knee of vLLM's own order
            in open loop, sessions whose contexts the memory holds in closed loop.
    """
    if cell.mode == "open":
        rate = cell.level * reference
        sessions = make_sessions(max(number_in(plan.open_s, rate), _FEWEST))
        return SessionCellRun(sessions, SessionArrivals.at_rate(rate, seed=cell.seed), None, 0.0)
    concurrent = min(max(round(cell.level * reference), 1), _MOST_CONCURRENT)
    # So many that they do not run out before the cut, or every policy would complete the same turns.
    duration_s = plan.warm_up_s + plan.closed_s
    lifetimes = math.ceil(duration_s / _SHORTEST_S)
    sessions = make_sessions(max(_SAMPLE, lifetimes * concurrent))
    arrivals = SessionArrivals.at_concurrency(concurrent, stagger_s=_STAGGER_S)
    return SessionCellRun(sessions, arrivals, duration_s, plan.warm_up_s)


def play_run(
    run: SessionCellRun,
    spec: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    tells_ends: bool = True,
    tells_sessions: bool = True,
) -> SessionScore:
    """Return the score of a policy; what clients tell is as for `simulate_sessions`."""
    result = simulate_sessions(
        run.sessions,
        run.arrivals,
        resolve(spec),
        engine,
        profile,
        timeline_points=2,
        duration_s=run.duration_s,
        tells_ends=tells_ends,
        tells_sessions=tells_sessions,
    )
    return SessionScore.from_run(result, warm_up_s=run.warm_up_s)


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
