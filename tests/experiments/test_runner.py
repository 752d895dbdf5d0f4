"""Experiments on the simulator: planned, interrupted, resumed, failing in part, refused when mixed up."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from bidkv.experiments.driver import DriverError
from bidkv.experiments.execute import run_experiment
from bidkv.experiments.plan import (
    ExperimentCell,
    ExperimentPlan,
    LoadPoint,
    Shard,
    alternate_order,
    make_labels,
    policy_for_label,
)
from bidkv.experiments.simulated_driver import SimDriver, SimEngine
from bidkv.experiments.store import Store, StoreError
from bidkv.experiments.vllm.runner import main
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig
from bidkv.workloads.traces import TraceError

PROFILE = "h100-llama3.1-8b"


def plan(**changes: object) -> ExperimentPlan:
    given = ExperimentPlan(
        "sim",
        ("preempt-evict", "bidkv", "lcf"),
        (LoadPoint("mixed", 4.0), LoadPoint("uniform", 9.0)),
        2,
        20,
        1001,
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def engine(**changes: object) -> SimEngine:
    return replace(SimEngine(EngineConfig(num_gpu_blocks=600, max_num_seqs=32), PROFILE), **changes)  # type: ignore[arg-type]


def run(folder: Path, given: ExperimentPlan, sim: SimEngine | None = None) -> Store:
    store = Store.create(folder, given)
    with SimDriver(sim or engine()) as driver:
        run_experiment(store, driver, lambda line: None)
    store.close()
    return store


def comparable(store: Store) -> dict[str, RunResult]:
    """Results by cell, without the one figure that is the machine's."""
    return {run.cell.cell_id: replace(run.result, wall_s=0.0) for run in store.runs()}


def test_every_strategy_is_early_as_often_as_late() -> None:
    names = ("a", "b", "c", "d")
    places: Counter[tuple[str, int]] = Counter()
    for repetition in range(8):
        order = alternate_order(names, repetition)
        assert sorted(order) == list(names)
        places.update(zip(order, range(4), strict=True))
    # Over eight repetitions each strategy stands twice in every place.
    assert set(places.values()) == {2}
    assert len(places) == 16


def test_labels_tell_the_same_policy_apart() -> None:
    labels = make_labels(["fair:cap=8", "lcf", "fair:cap=8", "fair:cap=8"])
    assert labels == ("fair:cap=8", "lcf", "fair:cap=8#2", "fair:cap=8#3")
    assert [policy_for_label(label) for label in labels] == ["fair:cap=8", "lcf", "fair:cap=8", "fair:cap=8"]


def test_cells_have_files_of_their_own_whatever_they_are_called() -> None:
    names = ("fair:cap=8", "fair:cap_8", "fair_cap=8", "fair:cap=8;w=1/2", ".", "x" * 300, "x" * 301)
    loads = tuple(LoadPoint(f"../{name}", 1.0) for name in names)
    ids = [cell.cell_id for cell in ExperimentPlan("sim", names, loads, 1, 1, 0).cells()]
    assert len(set(ids)) == len(names) ** 2
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-@") for name in ids)
    assert max(map(len, ids)) < 200


def test_a_plan_comes_back_equal_from_its_manifest() -> None:
    given = plan(options={"profile": "x", "noise": 0.5})
    assert ExperimentPlan.from_dict(json.loads(json.dumps(given.as_dict()))) == given
    for broken in ({}, {"version": 1}, given.as_dict() | {"version": 2}, given.as_dict() | {"more": 1}):
        with pytest.raises(ValueError, match="expected a plan"):
            ExperimentPlan.from_dict(broken)


def test_strategies_of_a_block_run_the_identical_requests(tmp_path: Path) -> None:
    store = run(tmp_path, plan())
    runs = list(store.runs())
    assert len(runs) == 12
    seen: dict[str, set[tuple[object, ...]]] = {}
    for each in runs:
        given = tuple((r.request_id, r.arrival_s, r.prompt_tokens) for r in each.result.records)
        seen.setdefault(each.cell.group.group_id, set()).add(given)
        assert each.result.strategy == each.cell.strategy
    assert len(seen) == 4
    assert all(len(requests) == 1 for requests in seen.values())
    assert len(set.union(*seen.values())) == 4


def test_a_run_killed_five_times_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    words = ["--strategies", "preempt-evict,bidkv,lcf", "--workloads", "mixed,uniform", "--rates", "4,9"]
    words += ["--runs", "4", "--requests", "60", "--engine", "sim", "--jobs", "1", "--noise", "0.02"]
    command = [sys.executable, "-m", "bidkv.experiments.vllm.runner", *words, "--output-dir"]
    assert main([*words, "--output-dir", str(tmp_path / "whole")]) == 0
    whole = Store.open(tmp_path / "whole")
    cells = len(whole.plan.cells())
    assert len(comparable(whole)) == cells

    folder, draw, killed = tmp_path / "killed", random.Random(5), 0
    for stop_after in sorted(draw.sample(range(cells - 4), 5)):
        process = subprocess.Popen(
            [*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(folder.glob("runs/[!.]*"))) <= stop_after:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.01))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 5
    partial = comparable(Store.open(folder))
    assert 0 < len(partial) < cells

    written = {path: path.stat().st_mtime_ns for path in folder.glob("runs/[!.]*")}
    assert main([*words, "--output-dir", str(folder)]) == 0
    assert comparable(Store.open(folder)) == comparable(whole)
    # What was there is still the same file: nothing ran twice.
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list(folder.glob("*/.*"))


def test_one_failing_combination_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = SimEngine._simulate, count()

    def sometimes(self: SimEngine, task: object) -> RunResult:
        if next(calls) == 4:
            raise RuntimeError("a broken combination")
        return original(self, task)  # type: ignore[arg-type]

    monkeypatch.setattr(SimEngine, "_simulate", sometimes)
    store = run(tmp_path, plan())
    assert len(list(store.runs())) == 11
    assert list(store.failures().values()) == ["RuntimeError: a broken combination"]
    run(tmp_path, plan())
    assert len(list(store.runs())) == 12
    assert store.failures() == {}


def test_a_folder_takes_one_experiment_and_one_process(tmp_path: Path) -> None:
    store = Store.create(tmp_path, plan())
    with pytest.raises(StoreError, match="another process"):
        Store.create(tmp_path, plan())
    store.close()
    with pytest.raises(StoreError, match=r"its requests are 20, asked for are 21"):
        Store.create(tmp_path, plan(requests=21))
    Store.create(tmp_path, plan()).close()


def test_requests_that_changed_since_they_were_frozen_are_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path, plan())
    block = plan().cells()[0].group
    first = store.requests(block)
    assert store.requests(block) == first
    path = store.workload_path(block)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(TraceError, match="it was changed since"):
        store.requests(block)
    store.close()


@pytest.mark.parametrize(
    "backend",
    ["loky", *(name for name, package in (("ray", "ray"), ("dask", "distributed")) if find_spec(package))],
)
def test_many_processes_give_the_results_of_one(
    tmp_path: Path, backend: Literal["loky", "ray", "dask"]
) -> None:
    pytest.importorskip("joblib", reason="needs the [experiments] extra")
    from bidkv.experiments.parallel import map_on_cores

    given = plan(strategies=("preempt-evict", "bidkv", "lcf", "largest-first"), runs=8)
    one = run(tmp_path / "one", given)
    store = Store.create(tmp_path / "two", given)
    with SimDriver(engine(), map_on_cores(2, backend)) as driver:
        run_experiment(store, driver, lambda line: None)
    assert len(comparable(one)) == 64
    assert comparable(store) == comparable(one)


def test_shares_of_a_plan_make_a_whole(tmp_path: Path) -> None:
    given = plan(runs=3)
    whole = run(tmp_path / "whole", given)
    joined = tmp_path / "joined"
    for number in (1, 2):
        share = Store.create(tmp_path / f"share-{number}", given)
        with SimDriver(engine()) as driver:
            tally = run_experiment(share, driver, lambda line: None, shard=Shard(number, 2))
        share.close()
        assert tally.done == 9, "three of the six blocks"
        assert len(list(share.runs())) == 9
        shutil.copytree(share.folder, joined, dirs_exist_ok=True)
    assert [(r.cell, r.result.records) for r in Store.open(joined).runs()] == [
        (r.cell, r.result.records) for r in whole.runs()
    ]


def test_a_missing_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from bidkv.experiments import parallel
    from bidkv.experiments.parallel import map_on_cores

    monkeypatch.setattr(
        parallel.importlib.util, "find_spec", lambda name: None if name == "distributed" else True
    )
    with pytest.raises(DriverError, match="--backend dask needs distributed"):
        map_on_cores(2, "dask")


def test_noise_makes_two_runs_of_one_policy_differ_and_repeats_itself(tmp_path: Path) -> None:
    given = plan(strategies=("bidkv", "bidkv#2"), loads=(LoadPoint("mixed", 4.0),), runs=1)
    quiet = list(run(tmp_path / "quiet", given).runs())
    assert quiet[0].result.records == quiet[1].result.records
    noisy = list(run(tmp_path / "noisy", given, engine(noise=0.02)).runs())
    assert noisy[0].result.records != noisy[1].result.records
    again = list(run(tmp_path / "again", given, engine(noise=0.02)).runs())
    assert [r.result.records for r in again] == [r.result.records for r in noisy]


CONTRACT = {
    "vllm": "--strategies preempt-evict,preempt-evict-sjf,static-random,largest-first,bidkv "
    "--workloads mixed --mixed-rates 2.0,3.8,5.7 --runs 3 "
    "--gpu-memory-utilization 0.5 --num-gpu-blocks-override 600 --max-num-seqs 32",
    "sglang": "--strategies sglang_default,slack_aware,bidkv --workloads mixed --runs 3",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contracts_command_lines_run_on_the_simulator_in_full_size(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"bidkv.experiments.{name}.runner"
    words = [*CONTRACT[name].split(), "--output-dir", str(tmp_path / "out"), "--engine", "sim", "--jobs", "1"]
    assert __import__(module, fromlist=["main"]).main(words) == 0
    store = Store.open(tmp_path / "out")
    rates = [load.rate_rps for load in store.plan.loads]
    if name == "vllm":
        assert rates == [2.0, 3.8, 5.7]
    else:  # shares of the rate that a real server's size sustains
        assert [rate / rates[1] for rate in rates] == pytest.approx([0.8, 1.0, 1.3], rel=0.04)
    assert store.plan.requests == 250
    cells: list[ExperimentCell] = store.plan.cells()
    assert len(list(store.runs())) == len(cells) == 9 * len(store.plan.strategies)
    told = capsys.readouterr()
    assert "min" in told.err or "left" in told.err
    baseline = store.plan.strategies[0]
    assert f"bidkv against {baseline}, mean end-to-end latency: better in" in told.out


@pytest.mark.parametrize("name", CONTRACT)
def test_without_the_engine_the_error_says_so_and_makes_no_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"bidkv.experiments.{name}.runner"
    folder = tmp_path / "out"
    assert (
        __import__(module, fromlist=["main"]).main([*CONTRACT[name].split(), "--output-dir", str(folder)])
        == 2
    )
    said = capsys.readouterr().err
    assert "is not installed" in said
    assert "--engine sim" in said
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--strategies nonesuch", "policy 'nonesuch' does not exist"),
        ("--strategies ,", "--strategies: expected values with commas"),
        ("--workloads nonesuch --rates 1", "workload 'nonesuch' is neither a file nor one of"),
        ("--workloads nonesuch", "workload 'nonesuch' is neither a file nor one of"),
        ("--mixed-rates 2,x", "--mixed-rates: expected requests a second above 0, got 'x'"),
        ("--shard 4/3", "--shard: expected K/N with 1 <= K <= N"),
        ("--mixed-rates 0", "--mixed-rates: expected requests a second above 0"),
        ("--runs 0", "runs must be at least 1"),
        ("--requests -1", "requests must be at least 1"),
        ("--profile nonesuch", "nonesuch"),
        ("--noise -1", "--noise: expected a number from 0 to 1"),
        ("--noise nan", "--noise: expected a number from 0 to 1"),
        ("--jobs 0", "--jobs: expected at least 1"),
        ("--block-size 0", "block_size must be an integer >= 1"),
    ],
)
def test_bad_words_are_one_line_and_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    given = ["--strategies", "lcf", "--engine", "sim", "--jobs", "1", "--requests", "5", "--runs", "1"]
    assert main([*given, "--output-dir", str(tmp_path / "out"), *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bidkv: error: ") or "1 runs" in said
    assert message in said
    assert not list(tmp_path.glob("out/runs/*"))


@pytest.mark.parametrize(
    ("name", "said", "kept"),
    [
        (
            "vllm",
            "simulated vLLM: 27,949 KV blocks of 16 tokens, 256 sequences, 2,048 tokens a step, "
            "h100-llama3.1-8b",
            {"num_gpu_blocks": 27949, "max_num_seqs": 256},
        ),
        (
            "sglang",
            "simulated SGLang: 447,168 KV blocks of 1 token, 256 sequences, 2,048 tokens a step, "
            "h100-llama3.1-8b",
            {"max_total_tokens": 447168, "max_running_requests": 256},
        ),
    ],
)
def test_a_simulated_engine_has_the_sizes_of_a_real_server_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str, kept: dict[str, int]
) -> None:
    words = ["--strategies", "lcf", "--engine", "sim", "--jobs", "1", "--requests", "5", "--runs", "1"]
    words += ["--mixed-rates", "2", "--output-dir", str(tmp_path / "out")]
    module = __import__(f"bidkv.experiments.{name}.runner", fromlist=["main"])
    assert module.main(words) == 0
    assert said in capsys.readouterr().err
    assert kept.items() <= Store.open(tmp_path / "out").plan.options.items()
    # Another size is another experiment, though none was stated before.
    size = "--max-num-seqs" if name == "vllm" else "--max-running-requests"
    assert module.main([*words, size, "32"]) == 2


def test_options_that_the_engine_does_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--strategies", "lcf", "--jobs", "1", "--requests", "5", "--runs", "1", "--mixed-rates", "2"]
    words += ["--output-dir", str(tmp_path / "out")]
    assert main([*words, "--engine", "sim", "--restart", "--gpu-memory-utilization", "0.5"]) == 0
    assert "not read by sim: --restart, --gpu-memory-utilization\n" in capsys.readouterr().err
    assert main([*words, "--engine", "vllm", "--noise", "0.1"]) == 2  # no vLLM here
    assert "not read by vllm: --noise, --jobs\n" in capsys.readouterr().err


def test_default_rates_follow_from_saturation(tmp_path: Path) -> None:
    words = [
        "--strategies",
        "lcf",
        "--workloads",
        "uniform",
        "--engine",
        "sim",
        "--runs",
        "1",
        "--requests",
        "5",
    ]
    assert main([*words, "--jobs", "1", "--output-dir", str(tmp_path / "big")]) == 0
    small = [
        *words,
        "--jobs",
        "1",
        "--num-gpu-blocks-override",
        "150",
        "--output-dir",
        str(tmp_path / "small"),
    ]
    assert main(small) == 0
    big_rates, small_rates = (
        [load.rate_rps for load in Store.open(tmp_path / name).plan.loads] for name in ("big", "small")
    )
    assert big_rates[0] / big_rates[1] == pytest.approx(0.8, rel=0.03)
    assert big_rates[2] / big_rates[1] == pytest.approx(1.3, rel=0.03)
    assert small_rates[1] < big_rates[1]


def test_the_process_id_is_no_part_of_a_result(tmp_path: Path) -> None:
    run(tmp_path, plan(runs=1))
    paths = list(tmp_path.glob("runs/*"))
    # Whole words: the digits of a small number stand in many a measured float.
    owner = re.compile(rf"(?<![\d.]){os.getpid()}(?![\d.])")
    assert paths
    assert not any(owner.search(path.name) or owner.search(path.read_text()) for path in paths)
