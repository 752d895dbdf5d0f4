"""Features of vLLM on the real CPU engine: outputs under pressure are those of vLLM with ample memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.vllm.feature_child import FEATURES, POLICIES

pytestmark = pytest.mark.vllm

GROUPS = {"Falcon-H1": 2, "Granite hybrid": 4, "Gemma 3": 4}
ALL = [
    pytest.param(name, marks=[pytest.mark.campaign] if feature.nightly else [])
    for name, feature in FEATURES.items()
]


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory, campaign: bool
) -> dict[str, Any]:
    """The report of every feature that a chosen test needs, from one process with a hard time limit.

    In the campaign each serves 200 requests.
    """
    folder = tmp_path_factory.mktemp("features")
    path = folder / "report.json"
    count = 200 if campaign else 30
    chosen = {
        item.callspec.params["feature"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    names = [name for name in FEATURES if name in chosen]
    arguments = [str(model), json.dumps(names), str(count), str(folder), str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.feature_child", *arguments],
        capture_output=True,
        text=True,
        timeout=7200 if campaign else 900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.timeout(950)
@pytest.mark.parametrize("feature", ALL)
def test_the_engine_runs_with_it(reports, feature):
    report = reports[feature]
    assert "error" not in report, report.get("error", "")[-3000:]
    assert report["scheduler"] == "BidKVScheduler"
    assert report["groups"] == GROUPS.get(feature, 1)
    outputs = [tuple(output) for output in report["alone"]]
    assert len(set(outputs)) == len(outputs), "outputs too alike to tell apart"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("feature", ALL)
def test_outputs_are_those_without_pressure(reports, feature, policy):
    assert reports[feature]["runs"][policy]["outputs"] == reports[feature]["alone"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("feature", ALL)
def test_the_policy_stays_in_charge_and_nothing_is_left_behind(reports, feature, policy):
    run = reports[feature]["runs"][policy]
    assert run["attached"]
    assert run["active"], run["breaker"]
    assert (run["drafts"] > 0) == FEATURES[feature].drafts
    assert (run["loads"] > 0) == FEATURES[feature].loads
    assert run["counters"]["failures"] == 0
    assert run["left"] == 0
    assert run["free"] == reports[feature]["blocks"]


@pytest.mark.parametrize("feature", ALL)
def test_victims_are_the_preempted(reports, feature, note_figures):
    """At most one in twenty is spared, and no other request is preempted."""
    runs = reports[feature]["runs"].values()
    by_engine = sum(run["counters"]["preemptions_by_engine"] for run in runs)
    preempted = sum(run["counters"]["preemptions_by_policy"] for run in runs)
    named = sum(run["named"] for run in runs)
    note_figures(
        f"{feature}: {len(reports[feature]['alone'])} requests, {preempted} preempted under "
        f"{' and '.join(POLICIES)}, {named - preempted} more named and spared"
    )
    assert by_engine == 0
    assert preempted >= (4 if FEATURES[feature].preempts else 0)
    assert named - preempted <= max(1, 0.05 * preempted)
