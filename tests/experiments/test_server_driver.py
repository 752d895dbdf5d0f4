"""The driver of real servers, against a fake one: started, switched, loaded, replaced, stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bidkv.experiments import managed_server
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import DriverError, EngineFacts, Task
from bidkv.experiments.execute import run_experiment
from bidkv.experiments.managed_server import ServerSpec
from bidkv.experiments.plan import ExperimentCell, ExperimentPlan, LoadPoint, RunGroup
from bidkv.experiments.server_driver import LoadSettings, ServerDriver
from bidkv.experiments.store import Store
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome

FAKE_SERVER = Path(__file__).with_name("fake_server.py")

pytest.importorskip("aiohttp", reason="needs the [experiments] extra")


def facts(url: str, reading: Reading) -> EngineFacts:
    return EngineFacts(reading.count("total_blocks"), 16, 1024, {"engine": "fake"})


def driver(logs: Path, *words: str, **settings: Any) -> ServerDriver:
    logs.mkdir(exist_ok=True)
    spec = ServerSpec("fake", [sys.executable, str(FAKE_SERVER), *words], "vllm", "fake", 1000, facts)
    given = {"warmup": 2, "drain_s": 5.0, "send_lag_limit_ms": 5000.0} | settings
    return ServerDriver(spec, logs, LoadSettings(**given), lambda line: None)


def tasks(*strategies: str) -> Iterator[Task]:
    requests = [WorkloadRequest(f"r{i}", i * 0.02, 20, 8) for i in range(10)]
    block = RunGroup(LoadPoint("made", 50.0), 0)
    for position, strategy in enumerate(strategies):
        yield Task(ExperimentCell(block, strategy, position), requests)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def server_pid(fake: ServerDriver) -> int:
    child = fake._server._child
    assert child is not None
    return child.pid


def test_runs_share_a_server_that_is_told_the_policy(tmp_path: Path) -> None:
    with driver(tmp_path) as fake:
        assert fake.facts() == EngineFacts(100, 16, 1024, {"engine": "fake"})
        pids, results = set(), []
        for done in fake.run(tasks("bidkv", "preempt-evict", "bidkv#2")):
            pids.add(server_pid(fake))
            assert done.result is not None, done.error
            results.append(done.result)
    assert len(pids) == 1
    assert not alive(pids.pop())
    assert [r.strategy for r in results] == ["bidkv", "preempt-evict", "bidkv#2"]
    for result in results:
        assert [r.outcome for r in result.records] == [Outcome.COMPLETED] * 10
        assert result.notes["control"]["arrivals"] == 10  # neither warm-up nor pokes count
        assert result.totals.preemptions == 10
        assert result.totals.scheduled_tokens == 2 * result.totals.steps > 0
        assert result.summary()["preempted_requests"] is None
    assert not list(tmp_path.glob("control-*"))


def test_an_old_spelling_of_a_policy_is_recognized_when_it_is_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed_server, "_PATIENCE_S", 5.0)
    with driver(tmp_path) as fake:
        (done,) = fake.run(tasks("sglang_default"))
    assert done.result is not None, done.error
    assert done.result.strategy == "sglang_default"


def test_a_run_that_fails_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    with driver(tmp_path, "--fault", "die", "--faulty", "r3", warmup=0) as fake:
        done = [(d.result, d.error) for d in fake.run(tasks("bidkv", "lcf"))]
    # Each run met the request the server dies of; each had a server of its own to kill.
    assert [result for result, _ in done] == [None, None]
    assert all("the server does not answer" in error for _, error in done)
    assert len(list(tmp_path.glob("fake-*.log"))) == 2


def test_failures_in_a_row_end_the_experiment(tmp_path: Path) -> None:
    seen = []
    with (
        driver(tmp_path, "--fault", "die", "--faulty", "r3", warmup=0) as fake,
        pytest.raises(DriverError, match="3 runs in a row failed"),
    ):
        seen.extend(fake.run(tasks("bidkv", "lcf", "preempt-evict", "largest-first")))


def test_a_late_load_is_no_result(tmp_path: Path) -> None:
    with driver(tmp_path, send_lag_limit_ms=1e-6) as fake:
        (done,) = fake.run(tasks("bidkv"))
    assert done.result is None
    assert "requests were sent late" in done.error


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with driver(tmp_path, "--no-such-option") as fake, pytest.raises(DriverError) as error:
        fake.facts()
    assert "ended with exit code 2" in str(error.value)
    assert "unrecognized arguments: --no-such-option" in str(error.value)


def test_restart_gives_every_run_its_own_server(tmp_path: Path) -> None:
    with driver(tmp_path, restart=True, warmup=0) as fake:
        done = list(fake.run(tasks("bidkv", "lcf")))
    assert all(d.result is not None for d in done)
    assert len(list(tmp_path.glob("fake-*.log"))) == 2


def test_an_interrupted_block_is_run_again_as_a_whole(tmp_path: Path) -> None:
    plan = ExperimentPlan("vllm", ("lcf", "bidkv"), (LoadPoint("uniform", 40.0),), 1, 4, 7)
    lines: list[str] = []
    for _ in range(2):
        store = Store.create(tmp_path / "out", plan)
        with driver(store.logs, warmup=0) as fake:
            tally = run_experiment(store, fake, lines.append)
        assert tally.done == 2, tally.failed
        store.discard(plan.cells()[1])
        store.close()
    assert sum("run again as a whole" in line for line in lines) == 1
    notes = json.loads((tmp_path / "out/runs" / f"{plan.cells()[0].cell_id}.json").read_text())["notes"]
    assert notes["engine"] == {"engine": "fake"}
