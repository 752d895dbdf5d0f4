"""The page of an experiment as a file: small whatever the experiment, verdict first, the same every time."""

from __future__ import annotations

import pytest
from tests.pages.conftest import made_up_run

from bidkv.experiments.analysis import ExperimentAnalysis, analyze_runs
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.experiments.store import StoredRun

page = pytest.importorskip("bidkv.report.experiment_page", reason="needs the [report] extra")


def analyze_store(strategies: int, loads: int, runs: int, requests: int) -> ExperimentAnalysis:
    names = ("preempt-evict", *(f"fair:cap={n}" for n in range(1, strategies)))
    kinds = tuple(LoadPoint(f"workload-{n % 16}", 1.0 + n // 16) for n in range(loads))
    plan = ExperimentPlan("sim", names, kinds, runs, requests, 7)
    made = [made_up_run("x", seed, requests) for seed in range(5)]
    stored = []
    for seed, cell in enumerate(plan.cells()):
        run = made[seed % 5]
        stored.append(StoredRun(cell, type(run)(cell.strategy, *run_parts(run))))
    return analyze_runs(plan, stored)


def run_parts(run: object) -> list[object]:
    names = ("records", "totals", "simulated_s", "wall_s", "timeline")
    return [getattr(run, name) for name in names]


def test_a_large_experiment_stays_under_three_megabytes() -> None:
    text = page.render_experiment_page(analyze_store(8, 48, 2, 250))
    assert len(text.encode()) < 3_000_000


def test_the_same_outcome_gives_the_same_page() -> None:
    outcome = analyze_store(3, 2, 2, 50)
    assert page.render_experiment_page(outcome) == page.render_experiment_page(outcome)


def test_the_verdict_comes_first_and_one_strategy_alone_has_a_page() -> None:
    text = page.render_experiment_page(analyze_store(3, 2, 2, 50))
    assert text.index("Against preempt-evict, mean end-to-end latency over 2 loads") < text.index("<table>")
    alone = page.render_experiment_page(analyze_store(1, 2, 2, 50))
    assert "preempt-evict ran alone: there is nothing to compare." in alone
    assert 'id="heat"' not in alone
