"""Run the cells of one group, and keep their scores in a file so that a tournament can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bidkv.evaluation.saturation import queued_throughput_rps
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import simulate
from bidkv.tournament.fingerprints import engine_fingerprint
from bidkv.tournament.plan import (
    MAX_NUM_BATCHED_TOKENS,
    CellGroup,
    TournamentCell,
    TournamentPlan,
    memory_size,
)
from bidkv.tournament.scores import Score
from bidkv.tournament.session_plan import MACHINES, load_machine
from bidkv.tournament.store import ScoreStore
from bidkv.workloads.families import FAMILIES

_Make = Callable[[int, float, int], list[WorkloadRequest]]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The result of one group.

    Attributes:
        saturation_rps: throughput of the baseline when every request is there from the start.
        scores: by cell, then by policy.
        requests: requests simulated for it; stored scores cost none.
        wall_s: seconds it took.
    """

    saturation_rps: float
    scores: dict[TournamentCell, dict[str, Score]]
    requests: int
    wall_s: float


def run_group(
    plan: TournamentPlan, group: CellGroup, profile_name: str, output_dir: Path | None
) -> GroupScores:
    """Run every load and policy of a group that is not stored yet. Equal arguments give equal scores."""
    started = time.perf_counter()
    profile = _load_step_times(profile_name)
    count = plan.requests_at(group.size)
    engine = memory_size(group.size).make_engine(plan.engine)
    file = plan.file(group.family)
    family: _Make = FAMILIES[group.family] if file is None else partial(file.make, engine)
    engine = engine if file is None else file.fit_engine(engine)
    store = _open_store(plan, group, profile_name, output_dir)
    simulated = 0

    def play(requests: Sequence[WorkloadRequest], spec: str) -> Score:
        nonlocal simulated
        simulated += len(requests)
        return Score.from_run(simulate(requests, resolve(spec), engine, profile, timeline_points=2))

    saturation_rps = store.reference
    if saturation_rps is None:
        queued = family(count, math.inf, group.seed)
        simulated += len(queued)
        saturation_rps = queued_throughput_rps(queued, engine, profile)
        store.reference = saturation_rps
    for load in plan.loads:
        scores = store.scores(repr(load))
        missing = [spec for spec in plan.policies if spec not in scores]
        if not missing:
            continue
        requests = family(count, load * saturation_rps, group.seed)
        for spec in missing:
            scores[spec] = play(requests, spec)
        store.save()
    cells = {
        TournamentCell(group.size, group.family, load, group.seed): {
            spec: store.scores(repr(load))[spec] for spec in plan.policies
        }
        for load in plan.loads
    }
    return GroupScores(saturation_rps, cells, simulated, time.perf_counter() - started)


def _load_step_times(name: str) -> StepTimeProfile:
    """Return the step times of a machine of the tournaments, or of a profile by its name."""
    return load_machine(name) if name in MACHINES else load_profile(name)


def _open_store(
    plan: TournamentPlan, group: CellGroup, profile_name: str, output_dir: Path | None
) -> ScoreStore[Score]:
    size = memory_size(group.size)
    made_by = {
        "engine": engine_fingerprint(),
        "profile": profile_name,
        "requests": plan.requests_at(group.size),
        "num_gpu_blocks": size.num_gpu_blocks,
        "max_num_seqs": size.max_num_seqs,
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
    }
    if plan.engine:
        made_by["options"] = dict(sorted(plan.engine.items()))
    if trace := plan.file(group.family):
        made_by |= {"file": trace.fingerprint(), "trace_options": dict(trace.statements)}
    folder = group.size.replace("/", "x")
    file = None if output_dir is None else output_dir / folder / f"{group.family}-{group.seed}.json"
    return ScoreStore(file, made_by, Score)
