"""The real engine, offline, on a CPU: outputs, victims, memory and faulty policies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_policies import FAULTS

pytestmark = pytest.mark.vllm

TIGHT = {"num_blocks": 60, "count": 40}
ROOMY = {"num_blocks": 400, "count": 40}
SHARED = {"shared_prefix": 96, "prefix_caching": True}
ENGINES: dict[str, dict[str, Any]] = {
    "alone": ROOMY | {"attach": False, "shared_prefixes": [0, 96]},
    "roomy": ROOMY | {"asynchronous": True, "policies": ["bidkv"]},
    "sync": TIGHT | {"policies": ["", "lcf", "largest-first", "bidkv", "static-random"]},
    "async": TIGHT | {"asynchronous": True, "policies": ["", "lcf", "bidkv"]},
    "async, shared prefixes": TIGHT | SHARED | {"asynchronous": True, "policies": ["", "lcf", "bidkv"]},
    "priority": TIGHT
    | SHARED
    | {"scheduling_policy": "priority", "policies": ["", "lcf", "preempt-evict-sjf"]},
    "async, priority": TIGHT
    | {"asynchronous": True, "scheduling_policy": "priority", "policies": ["largest-first"]},
    "faults": TIGHT | {"count": 24, "asynchronous": True, "policies": list(FAULTS)},
}
RUNS = [(engine, policy) for engine, options in ENGINES.items() for policy in options.get("policies", ())]
NAMING = [
    (engine, policy)
    for engine, policy in RUNS
    if engine not in ("roomy", "faults") and policy not in ("", "preempt-evict-sjf")
]


@pytest.fixture(scope="module")
def reports(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every engine's report, from one process with a hard time limit."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    command = [sys.executable, "-m", "tests.vllm.engine_child", str(model), json.dumps(ENGINES), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.timeout(650)
def test_the_adapter_takes_the_place_of_both_schedulers(reports):
    schedulers = {name: report["scheduler"] for name, report in reports.items()}
    assert schedulers.pop("alone") == "Scheduler"
    for name, scheduler in schedulers.items():
        asynchronous = ENGINES[name].get("asynchronous", False)
        assert scheduler == ("BidKVAsyncScheduler" if asynchronous else "BidKVScheduler")


@pytest.mark.parametrize(("engine", "policy"), RUNS)
def test_outputs_are_those_of_the_engine_alone_without_pressure(reports, engine, policy):
    options = ENGINES[engine]
    expected = reports["alone"]["outputs"][str(options.get("shared_prefix", 0))][: options["count"]]
    assert len({tuple(output) for output in expected}) == len(expected), "outputs too alike to tell apart"
    assert reports[engine]["runs"][policy]["outputs"] == expected


@pytest.mark.parametrize(("engine", "policy"), RUNS)
def test_nothing_is_left_behind(reports, engine, policy):
    run = reports[engine]["runs"][policy]
    assert run["blocks_lost"] == run["views_kept"] == run["running"] == run["waiting"] == 0
    counters = run["counters"]
    assert counters["arrivals"] == counters["completions"] == ENGINES[engine]["count"]
    assert counters["admissions"] == counters["arrivals"] + len(run["preempted"])
    assert counters["aborts"] == 0


@pytest.mark.parametrize(("engine", "policy"), NAMING)
def test_the_policys_victims_are_the_preempted(reports, engine, policy):
    run = reports[engine]["runs"][policy]
    assert len(run["preempted"]) >= 5
    assert run["preempted"] == run["named"]
    assert run["counters"]["preemptions_by_engine"] == 0
    assert run["counters"]["overrides"] > 0


@pytest.mark.parametrize("engine", ["sync", "async", "async, shared prefixes", "priority"])
def test_switched_off_the_engine_is_alone(reports, engine):
    run = reports[engine]["runs"][""]
    assert len(run["preempted"]) >= 5
    assert run["named"] == []
    assert run["active"] is False
    assert run["counters"]["decisions"] == run["counters"]["pressured_steps"] == 0


def test_without_pressure_nothing_is_decided(reports):
    run = reports["roomy"]["runs"]["bidkv"]
    assert run["preempted"] == run["named"] == []
    assert run["counters"]["pressured_steps"] == run["counters"]["decisions"] == 0


def test_policies_really_differ(reports):
    victims = {policy: tuple(run["preempted"]) for policy, run in reports["sync"]["runs"].items()}
    assert len(set(victims.values())) == len(victims)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "exception"),
        ("garbage", "invalid_answer"),
        ("sleeps", "time_budget"),
        ("raises-on-events", "exception"),
    ],
)
def test_a_failing_policy_hands_over_to_the_engine(reports, fault, reason):
    """That every request is served as before is the test of outputs above."""
    run = reports["faults"]["runs"][fault]
    assert run["active"] is False
    assert run["breaker"].startswith(reason)
    assert run["counters"]["failures"] == 1
    assert run["counters"]["preemptions_by_engine"] >= 5


def test_a_policy_that_abstains_leaves_it_to_the_engine(reports):
    run = reports["faults"]["runs"]["abstains"]
    assert run["active"] is True
    assert run["counters"]["abstentions"] > 0
    assert run["counters"]["preemptions_by_engine"] >= 5
    assert run["counters"]["failures"] == run["counters"]["decisions"] == 0


def test_a_gate_that_never_opens_still_lets_an_idle_engine_serve(reports):
    run = reports["faults"]["runs"]["shut-gate"]
    assert run["counters"]["gate_refusals"] > 0
    assert run["preempted"] == []
