"""Run the cells of one group, and keep their scores in a file so that a tournament can be resumed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidkv.evaluation.saturation import queued_throughput_rps
from bidkv.policy import PolicySpecError, resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import simulate
from bidkv.tournament.fingerprints import engine_fingerprint, policy_fingerprint
from bidkv.tournament.plan import (
    MAX_NUM_BATCHED_TOKENS,
    SIZES,
    CellGroup,
    TournamentCell,
    TournamentPlan,
)
from bidkv.tournament.scores import Score
from bidkv.workloads.families import FAMILIES
from bidkv.workloads.traces.writer import atomic_file


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
    profile = load_profile(profile_name)
    count = plan.requests_at(group.size)
    family = FAMILIES[group.family]
    store = _Store(group, profile_name, count, output_dir)
    simulated = 0

    def play(requests: Sequence[WorkloadRequest], spec: str) -> Score:
        nonlocal simulated
        simulated += len(requests)
        return _play(requests, spec, group.size, profile)

    saturation_rps = store.saturation_rps
    if saturation_rps is None:
        queued = family(count, math.inf, group.seed)
        simulated += len(queued)
        saturation_rps = queued_throughput_rps(queued, SIZES[group.size].engine, profile)
        store.saturation_rps = saturation_rps
    for load in plan.loads:
        scores = store.scores(load)
        missing = [spec for spec in plan.policies if spec not in scores]
        if not missing:
            continue
        requests = family(count, load * saturation_rps, group.seed)
        for spec in missing:
            scores[spec] = play(requests, spec)
        store.save()
    cells = {
        TournamentCell(group.size, group.family, load, group.seed): {
            spec: store.scores(load)[spec] for spec in plan.policies
        }
        for load in plan.loads
    }
    return GroupScores(saturation_rps, cells, simulated, time.perf_counter() - started)


def _play(requests: Sequence[WorkloadRequest], spec: str, size: str, profile: StepTimeProfile) -> Score:
    return Score.from_run(simulate(requests, resolve(spec), SIZES[size].engine, profile, timeline_points=2))


class _Store:
    """The scores of one group on disk, replaced as a whole after each load; in memory only without a folder.

    A file made by another version of the engine or with other settings counts as empty, and so does the score
    of a policy that has changed since.
    """

    def __init__(self, group: CellGroup, profile_name: str, requests: int, output_dir: Path | None) -> None:
        self.saturation_rps: float | None = None
        self._scores: dict[float, dict[str, Score]] = {}
        size = SIZES[group.size]
        self._made_by: dict[str, Any] = {
            "engine": engine_fingerprint(),
            "profile": profile_name,
            "requests": requests,
            "num_gpu_blocks": size.num_gpu_blocks,
            "max_num_seqs": size.max_num_seqs,
            "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        }
        self._file: Path | None = None
        if output_dir is not None:
            self._file = output_dir / group.size / f"{group.family}-{group.seed}.json"
            self._load(self._file)

    def _load(self, file: Path) -> None:
        if not file.exists():
            return
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["made_by"] != self._made_by:
            return
        self.saturation_rps = content["saturation_rps"]
        self._scores = {
            float(load): {
                spec: Score(**stored["score"])
                for spec, stored in by_policy.items()
                if stored["policy"] is not None and stored["policy"] == _fingerprint(spec)
            }
            for load, by_policy in content["loads"].items()
        }

    def scores(self, load: float) -> dict[str, Score]:
        """Return the scores at a load by policy. What is added to them is saved by :meth:`save`."""
        return self._scores.setdefault(load, {})

    def save(self) -> None:
        """Replace the file atomically: a reader sees the old content or the new, never a part."""
        if self._file is None:
            return
        content = {
            "made_by": self._made_by,
            "saturation_rps": self.saturation_rps,
            "loads": {
                repr(load): {
                    spec: {"policy": _fingerprint(spec), "score": score.as_dict()}
                    for spec, score in by_policy.items()
                }
                for load, by_policy in self._scores.items()
            },
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._file) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


def _fingerprint(spec: str) -> str | None:
    """Return a policy's checksum; None for one that no longer exists or was defined at a prompt."""
    try:
        return policy_fingerprint(spec)
    except (PolicySpecError, TypeError, OSError):
        return None
