"""A report page of made-up runs, and a real headless browser to open it in."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bidkv.experiments.analysis import analyze_runs
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.experiments.store import StoredRun
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint

STRATEGIES = (
    "preempt-evict",
    "preempt-evict-sjf",
    "static-random",
    "largest-first",
    "bidkv",
    "fair:cap=8;w=0.5",
)
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def made_up_run(strategy: str, seed: int, requests: int = 300) -> RunResult:
    """A run with plausible shapes: queueing latencies, a full cache, preemptions that add up."""
    draw = random.Random(seed)
    records, now_s = [], 0.0
    for index in range(requests):
        now_s += draw.expovariate(2.0)
        first_s = now_s + draw.lognormvariate(-1.0 + 0.1 * seed, 1.0)
        finish_s = first_s + draw.lognormvariate(1.0, 0.6)
        records.append(RequestRecord(f"r{index}", now_s, 900, 200, first_s, finish_s, draw.randrange(3)))
    end_s = max(record.finish_s or 0.0 for record in records)
    preemptions = sum(record.preemptions for record in records)
    timeline = [
        TimelinePoint(end_s * k / 1000, draw.randrange(300, 600), 30, 5, preemptions * k // 1000)
        for k in range(1000)
    ]
    totals = EngineTotals(
        steps=5000,
        scheduled_tokens=400_000,
        recomputed_tokens=10_000 * (seed + 1),
        preemptions=preemptions,
        used_block_seconds=450 * end_s,
        usable_blocks=599,
        busy_s=end_s,
    )
    return RunResult(strategy, records, totals, end_s, 0.5, timeline)


@pytest.fixture(scope="session")
def runs() -> list[RunResult]:
    return [made_up_run(strategy, seed) for seed, strategy in enumerate(STRATEGIES)]


@pytest.fixture(scope="session")
def page_file(runs: list[RunResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = pytest.importorskip("bidkv.report.page", reason="needs the [report] extra")
    file = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    page.write_report(file, runs, {"trace": "made </script><b>up", "num_gpu_blocks": 600})
    return Path(file)


@pytest.fixture(scope="session")
def experiment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small experiment: two loads, two runs of each of three strategies."""
    page = pytest.importorskip("bidkv.report.experiment_page", reason="needs the [report] extra")
    strategies = ("preempt-evict", "bidkv", "fair:cap=8;w=0.5")
    loads = (LoadPoint("mixed", 2.0), LoadPoint('made </script><b>"up"', 3.5))
    plan = ExperimentPlan("sim", strategies, loads, 2, 120, 7, {"profile": "made up"})
    runs = []
    for seed, cell in enumerate(plan.cells()):
        run = made_up_run(cell.strategy, seed % 5, requests=120)
        run.notes["control"] = {"decisions": 9, "overrides": 9, "admissions": 120}
        runs.append(StoredRun(cell, run))
    file = tmp_path_factory.mktemp("experiment") / "deep" / "experiment.html"
    page.write_experiment_page(file, analyze_runs(plan, runs))
    return Path(file)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("needs Chromium: scripts/setup-browser.sh installs it")
    with playwright_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield launched
        launched.close()
