"""Sessions on a real CPU engine with short memory: nothing is lost, no output changes, all are recognized."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bidkv.policy import available

pytestmark = pytest.mark.vllm

STRATEGY = "sessions" if "sessions" in available() else "fair"
RUNS = ("own order", "told", "found", "template", "faults")


@pytest.fixture(scope="module")
def size(campaign: bool) -> tuple[int, int]:
    """Sessions, and turns of each."""
    return (100, 20) if campaign else (40, 8)


@pytest.fixture(scope="module")
def report(
    model: Path, tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], campaign: bool
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sessions")
    command = [sys.executable, "-m", "tests.vllm.session_child", str(model), *map(str, size), str(folder)]
    environment = os.environ | {"BIDKV_STRATEGY": STRATEGY}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=14_400 if campaign else 3000,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


@pytest.mark.timeout(3100)
def test_every_turn_is_served(report, size, note_figures):
    sessions, turns = size
    for run in RUNS[:-1]:
        assert len(report[run]["outputs"]) == sessions * turns, run
    for run in RUNS:
        note_figures(
            f"real engine, {run}: {len(report[run]['outputs'])} turns of {sessions} sessions in "
            f"{report[run]['steps']} steps, {report[run]['cached_tokens']} tokens from the cache"
        )


def test_outputs_are_those_of_an_engine_with_ample_memory(report):
    for run in RUNS:
        ample = report["template, ample" if run == "template" else "ample"]["outputs"]
        served = report[run]["outputs"]
        assert served == {name: ample[name] for name in served}, run


def test_memory_was_short(report):
    """Otherwise nothing was tested: contexts outgrow the memory several times."""
    assert report["own order"]["cached_tokens"] < 0.6 * report["ample"]["cached_tokens"]


@pytest.mark.parametrize("run", RUNS)
def test_all_blocks_are_back(report, run):
    assert (report[run]["blocks_lost"], report[run]["left"]) == (0, 0)


def test_faults_happened_and_ended_nothing_but_what_they_had_to(report, size, note_figures):
    sessions, turns = size
    faults = report["faults"]["faults"]
    assert {"vanishes between turns", "kill switch", "back"} <= set(faults)
    assert any(fault.startswith("policy") for fault in faults)
    begun = {name.partition("#")[0] for name in report["faults"]["names"]}
    assert len(begun) == sessions
    finished = [name for name in report["faults"]["outputs"] if name.endswith(f"#{turns - 1}")]
    gone = faults.get("vanishes between turns", 0) + faults.get("vanishes in a turn", 0)
    assert len(finished) == sessions - gone
    counters = report["faults"]["counters"]
    drops = counters["session_drops"]
    note_figures(f"real engine, faults: {faults}, {counters['failures']} policy failures, {drops} drops")
    assert counters["failures"] > 0
    assert report["attached"]
    assert report["session_failures"] == 0


@pytest.mark.parametrize("run", ["told", "found", "template"])
def test_the_policy_decides_to_the_end(report, run, note_figures):
    """It drops idle sessions and is never switched off where nothing goes wrong."""
    counters = report[run]["counters"]
    assert report[run]["active"]
    assert counters["failures"] == 0
    assert counters["session_drops"] > 0
    preempted = counters["preemptions_by_policy"] + counters["preemptions_by_engine"]
    note_figures(f"real engine, {run}: {counters['session_drops']} drops, {preempted} preemptions")


@pytest.mark.parametrize("run", ["own order", "found", "template"])
def test_sessions_that_no_client_names_are_found_by_their_past(report, run, note_figures):
    """The books put a turn into the session of the turn before it, as a client that names it would.

    A session that the books began with one client's turn holds no turn of another client.
    """
    names = report[run]["names"]
    clients: dict[str, str] = {}
    right = later = 0
    for name, found in names.items():
        client, turn = name.split("#")
        begun_by = clients.setdefault(found, client)
        if turn != "0":
            later += 1
            right += found == names[f"{client}#{int(turn) - 1}"] and begun_by == client
    note_figures(f"found by prefix, {run}: {right} of {later} later turns as told")
    assert right >= 0.99 * later
    begun = [clients[found] == name.partition("#")[0] for name, found in names.items() if name.endswith("#0")]
    assert sum(begun) >= 0.99 * len(begun)


def test_told_sessions_are_those_the_clients_named(report):
    for name, session in report["told"]["names"].items():
        assert session == name.partition("#")[0]
