"""`bidkv explain` on a recorded run of the real engine: every preemption against the engine's own account."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bidkv.baselines import bidkv_disruption
from bidkv.cli.app import app

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

TIGHT = {"num_blocks": 36, "count": 40}
RUNS = {
    "bidkv": TIGHT | {"policy": "bidkv", "asynchronous": False},
    "bidkv-async": TIGHT | {"policy": "bidkv", "asynchronous": True},
    "lcf": TIGHT | {"policy": "lcf", "asynchronous": False},
}


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs and accounts of all runs, from one process with a hard time limit."""
    place: Path = tmp_path_factory.mktemp("explain")
    command = [sys.executable, "-m", "tests.vllm.explain_child", str(model), json.dumps(RUNS), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return place


def explained(log: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["explain", str(log), "--json"])
    assert result.exit_code == 0, result.output
    stories: list[dict[str, Any]] = json.loads(result.stdout)
    return stories


def score(policy: str, request: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """The figure by which the policy ranks a request (the highest goes), and the terms in the log."""
    if policy == "lcf":
        return -request["computed"], {}
    freed = request["prompt"] + request["generated"]
    disruption = bidkv_disruption(request["generated"], request["cap"], request["preemptions"])
    utility = freed / (disruption + 1e-3)
    return utility, {"utility": utility, "freed_tokens": freed, "disruption": disruption}


def recomputed_by_the_engine(steps: list[dict[str, Any]]) -> dict[str, list[int]]:
    """For every preemption of every request: scheduled tokens of its next life that were computed before."""
    high: Counter[str] = Counter()
    life: Counter[str] = Counter()
    recomputed: dict[str, list[int]] = {}
    for step in steps:
        for victim in step["preempted"]:
            name = victim["request_id"]
            if name in recomputed:
                recomputed[name].append(min(life[name], high[name]))
            else:
                recomputed[name] = []
            high[name] = max(high[name], victim["computed"])
            life[name] = 0
        life.update(step["scheduled"])
    return {name: [*earlier, min(life[name], high[name])] for name, earlier in recomputed.items()}


@pytest.mark.parametrize("name", RUNS)
def test_every_preemption_is_explained_as_the_engine_saw_it(folder: Path, name: str) -> None:
    policy = str(RUNS[name]["policy"])
    steps = json.loads((folder / f"{name}.json").read_text())
    told = {story["request_id"]: story["preemptions"] for story in explained(folder / f"{name}.log")}
    seen: Counter[str] = Counter()
    for step in steps:
        candidates = {request["request_id"]: request for request in step["running"]}
        for victim in step["preempted"]:
            request_id = victim["request_id"]
            setback = told[request_id][seen[request_id]]
            seen[request_id] += 1
            assert (setback["by"], setback["policy"]) == ("policy", policy)
            assert setback["candidates"] == len(candidates)
            figure, terms = score(policy, candidates[request_id])
            assert figure == max(score(policy, request)[0] for request in candidates.values())
            assert setback["terms"] == pytest.approx(terms, rel=1e-4)
            assert setback["victim"]["prompt_tokens"] == victim["prompt"]
            assert setback["victim"]["output_tokens"] == victim["generated"]
            assert setback["victim"]["computed_tokens"] == setback["lost_tokens"] == victim["computed"]
            assert setback["victim"]["preemptions"] == victim["preemptions"]
            del candidates[request_id]
    assert sum(seen.values()) >= 15
    assert {request_id: len(setbacks) for request_id, setbacks in told.items()} == seen
    costs = {request_id: [s["recomputed_tokens"] for s in setbacks] for request_id, setbacks in told.items()}
    assert costs == recomputed_by_the_engine(steps)
