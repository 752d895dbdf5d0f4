"""Verdicts: intervals against scipy's own, false alarms at the stated level, planted effects found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="needs the [experiments] extra")

from scipy import stats

from bidkv.evaluation.baseline import choose_baseline
from bidkv.evaluation.latency_target import LatencyTarget, attainment, goodput_rps
from bidkv.evaluation.statistics import Interval, compare_cells, compare_pairs, order_effect
from bidkv.experiments import simulated_driver as sim_module
from bidkv.experiments.analysis import (
    REQUEST_VERDICTS,
    CellVerdict,
    ComparisonVerdict,
    ExperimentAnalysis,
    analyze_runs,
)
from bidkv.experiments.analysis_text import describe, markdown
from bidkv.experiments.driver import Task
from bidkv.experiments.plan import ExperimentCell, ExperimentPlan, LoadPoint, RunGroup, make_labels
from bidkv.experiments.simulated_driver import SimEngine, scale_profile
from bidkv.experiments.store import StoredRun
from bidkv.results import EngineTotals, RequestRecord, RunResult
from bidkv.results import Outcome as Fate
from bidkv.simulator import EngineConfig
from bidkv.workloads.resolver import make_requests

LEVELS = st.sampled_from([0.8, 0.95, 0.99])
FIGURES = st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=2, max_size=12)


@given(FIGURES, LEVELS)
def test_the_paired_interval_is_that_of_the_paired_t_test(
    pairs: list[tuple[float, float]], level: float
) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found = compare_pairs(ours, theirs, level=level)
    logs = [math.log(a) - math.log(b) for a, b in pairs]
    if len(set(logs)) == 1:
        assert found.low == found.high == found.estimate
        return
    theirs_log = stats.ttest_1samp(logs, 0.0).confidence_interval(level)
    assert found.low == pytest.approx(math.expm1(theirs_log.low), rel=1e-6, abs=1e-9)
    assert found.high == pytest.approx(math.expm1(theirs_log.high), rel=1e-6, abs=1e-9)


def test_one_pair_shows_nothing_and_a_zero_is_compared_by_difference() -> None:
    alone = compare_pairs([2.0], [1.0])
    assert not alone.is_shown
    assert "no interval" in str(alone)
    zero = compare_pairs([0.0, 0.1, 0.2], [0.1, 0.2, 0.3])
    assert not zero.relative
    assert zero.estimate == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="as many runs on both sides"):
        compare_pairs([1.0], [])


def test_the_bootstrap_agrees_with_t_on_many_well_behaved_pairs() -> None:
    draw = Random(3)
    ours = [draw.lognormvariate(0.1, 0.2) for _ in range(60)]
    t, bootstrap = compare_pairs(ours, [1.0] * 60), compare_pairs(ours, [1.0] * 60, method="bootstrap")
    assert bootstrap.low == pytest.approx(t.low, abs=0.01)
    assert bootstrap.high == pytest.approx(t.high, abs=0.01)
    assert t.is_shown


def test_pooling_one_cell_is_the_cell_and_pooling_more_is_narrower() -> None:
    draw = Random(4)
    cells = [([draw.lognormvariate(0.1, 0.1) for _ in range(4)], [1.0] * 4) for _ in range(6)]
    one = compare_cells(cells[:1])
    alone = compare_pairs(*cells[0])
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high))
    every = compare_cells(cells)
    assert every.high - every.low < one.high - one.low
    mean = math.exp(sum(math.log(x) for ours, _ in cells for x in ours) / 24) - 1
    assert every.estimate == pytest.approx(mean)


def drifting(per_place: float, repetitions: int, noise: float = 0.0) -> Interval | None:
    """Four strategies of very different speed; a run's figure grows with its place in the block."""
    draw, names = Random(1), ("a", "b", "c", "d")
    blocks = []
    for cells in ExperimentPlan("sim", names, (LoadPoint("x", 1.0),), repetitions, 1, 0).groups():
        weight = draw.uniform(0.5, 2.0)  # other requests each time
        blocks.append(
            {
                c.strategy: (
                    c.position,
                    weight
                    * (1.0 + names.index(c.strategy))
                    * (1.0 + per_place) ** c.position
                    * draw.lognormvariate(0.0, noise),
                )
                for c in cells
            }
        )
    return order_effect({"x": blocks})


def test_a_planted_drift_is_measured_and_none_is_not() -> None:
    found = drifting(0.02, 4)
    assert found is not None
    assert found.estimate == pytest.approx(0.02)
    noisy, quiet = drifting(0.05, 8, noise=0.02), drifting(0.0, 8, noise=0.02)
    assert noisy is not None
    assert noisy.is_shown
    assert quiet is not None
    assert not quiet.is_shown
    assert drifting(0.02, 1) is None  # place and strategy are the same thing


# --- whole experiments -----------------------------------------------------------------------------
ENGINE = SimEngine(EngineConfig(num_gpu_blocks=600, max_num_seqs=32), "h100-llama3.1-8b", noise=0.01)


def experiment(plan: ExperimentPlan, simulate: Callable[[Task], object]) -> ExperimentAnalysis:
    runs = []
    for cells in plan.groups():
        load, repetition = cells[0].group.load, cells[0].group.repetition
        requests = make_requests(load.workload, plan.requests, load.rate_rps, plan.seed + repetition)
        for cell in cells:
            done = simulate(Task(cell, requests))
            assert done.result is not None, done.error  # type: ignore[attr-defined]
            runs.append(StoredRun(cell, done.result))  # type: ignore[attr-defined]
    return analyze_runs(plan, runs)


AA = make_labels(["preempt-evict", "preempt-evict"])
LOADS = tuple(
    LoadPoint(workload, rate)
    for workload, rates in {
        "mixed": (2.6, 3.0, 3.4, 4.0, 4.8),
        "uniform": (7.0, 8.0, 9.0, 10.5, 12.0),
        "sharegpt_like": (0.55, 0.6, 0.65, 0.75, 0.9),
        "multi_turn": (1.8, 2.0, 2.25, 2.6, 3.0),
    }.items()
    for rate in rates
)


def test_the_same_policy_twice_raises_no_more_alarms_than_stated() -> None:
    alarms: Counter[str] = Counter()
    cells = 0
    for seed in range(5):
        plan = ExperimentPlan("sim", AA, LOADS, 4, 40, 1001 + 100 * seed)
        outcome = experiment(plan, replace(ENGINE, seed=seed).run)
        cells += len(plan.loads)
        for judged in outcome.cells:
            alarms[judged.figure.path] += judged.verdict is not ComparisonVerdict.NOT_SHOWN
    assert cells == 100
    # One figure: at most as many as a 5 % level gives in 999 of 1000 such tests.
    most = stats.binom.ppf(0.999, cells, 0.05)
    assert all(alarms[figure.path] <= most for figure in REQUEST_VERDICTS), alarms
    # All figures together: the level holds on average (figures of one cell hang together).
    assert sum(alarms.values()) <= stats.binom.ppf(0.999, cells, 0.05) * len(REQUEST_VERDICTS) / 2, alarms


def test_a_planted_slowdown_of_three_percent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = sim_module.load_profile
    slow = {"now": False}
    monkeypatch.setattr(
        sim_module, "load_profile", lambda name: scale_profile(original(name), 1.03 if slow["now"] else 1.0)
    )

    def simulate(task: Task) -> object:
        slow["now"] = task.cell.strategy.endswith("#2")
        return ENGINE.run(task)

    loads = (LoadPoint("mixed", 3.4), LoadPoint("uniform", 9.0), LoadPoint("sharegpt_like", 0.65))
    outcome = experiment(ExperimentPlan("sim", AA, loads, 8, 60, 5001), simulate)
    assert [outcome.cell(load, AA[1], REQUEST_VERDICTS[0]).verdict for load in loads] == [
        ComparisonVerdict.WORSE
    ] * 3
    overall = outcome.overall[0].effect
    assert overall is not None
    assert overall.estimate >= 0.03  # queues make more of it
    assert overall.low > 0.0


# --- what may not be claimed -----------------------------------------------------------------------
def run_of(strategy: str, repetition: int, e2e_s: float, failed: int = 0, **control: int) -> StoredRun:
    """A run of ten requests, one a second, the last `failed` of them without an answer."""
    records = [
        RequestRecord(f"r{i}", float(i), 9, 9, i + 0.1, i + e2e_s)
        if i < 10 - failed
        else RequestRecord(f"r{i}", float(i), 9, 0, None, None, outcome=Fate.FAILED)
        for i in range(10)
    ]
    counters = {"admissions": 10, "decisions": 5, "overrides": 5, "failures": 0} | control
    result = RunResult(strategy, records, EngineTotals(preemptions=3), 20.0, 1.0, notes={"control": counters})
    return StoredRun(ExperimentCell(RunGroup(LoadPoint("made", 1.0), repetition), strategy, 0), result)


def judged(
    ours: Sequence[StoredRun], strategy: str = "lcf", engine: str = "vllm"
) -> tuple[CellVerdict, ExperimentAnalysis]:
    base = [run_of("preempt-evict", n, 2.0 + 0.1 * n, decisions=0, overrides=0) for n in range(len(ours))]
    plan = ExperimentPlan(engine, ("preempt-evict", strategy), (LoadPoint("made", 1.0),), len(ours), 10, 0)
    outcome = analyze_runs(plan, [*base, *ours])
    return outcome.cell(plan.loads[0], strategy, REQUEST_VERDICTS[0]), outcome


def test_a_clear_gain_is_called_better() -> None:
    verdict, outcome = judged([run_of("lcf", n, 1.0 + 0.05 * n) for n in range(3)])
    assert verdict.verdict is ComparisonVerdict.BETTER
    assert verdict.effect is not None
    assert verdict.effect.estimate == pytest.approx(-0.5)
    text = describe(outcome)
    assert "lcf against preempt-evict, mean end-to-end latency: better in 1 of 1 cell, worse in 0" in text
    assert "-50.0 %" in markdown(outcome)


@pytest.mark.parametrize(
    ("control", "strategy", "engine", "reason"),
    [
        ({"decisions": 0, "overrides": 0}, "lcf", "vllm", "the policy was never called"),
        ({"decisions": 0}, "not-installed-here", "vllm", "the policy was never called"),
        ({}, "not-installed-here", "vllm", ""),
        ({"overrides": 0}, "lcf", "vllm", "chose as the engine itself would have"),
        ({"overrides": 0}, "lcf", "sglang", ""),
        ({"failures": 2}, "lcf", "vllm", "failed 6 times"),
        ({"decisions": 0, "overrides": 0}, "preempt-evict-sjf", "vllm", ""),
        ({"decisions": 0, "overrides": 0, "admissions": 0}, "preempt-evict-sjf", "vllm", "never called"),
        ({"decisions": 0, "session_drops": 4}, "queueing-floor", "vllm", ""),
        ({"decisions": 0, "session_drops": 0}, "queueing-floor", "vllm", "never called"),
    ],
)
def test_a_claim_needs_a_policy_that_was_in_charge(
    control: dict[str, int], strategy: str, engine: str, reason: str
) -> None:
    runs = [run_of(strategy, n, 1.0 + 0.05 * n, **control) for n in range(3)]
    verdict, outcome = judged(runs, strategy, engine)
    assert verdict.verdict is (ComparisonVerdict.REFUSED if reason else ComparisonVerdict.BETTER)
    assert reason in verdict.reason
    assert ("a claim refused in 1" in describe(outcome)) == bool(reason)


def test_without_counters_nothing_is_claimed() -> None:
    runs = [run_of("lcf", n, 1.0 + 0.05 * n) for n in range(3)]
    for run in runs:
        run.result.notes.clear()
    verdict, _ = judged(runs)
    assert "no counters" in verdict.reason


def test_fewer_answers_are_no_gain() -> None:
    verdict, outcome = judged([run_of("lcf", n, 1.0 + 0.05 * n, failed=1) for n in range(3)])
    assert verdict.verdict is ComparisonVerdict.REFUSED
    assert verdict.reason == "it completed 27 requests, preempt-evict 30"
    assert "Refused (lcf, made at 1/s): it completed 27 requests" in describe(outcome)


def test_a_loss_may_be_claimed_of_fewer_answers() -> None:
    verdict, _ = judged([run_of("lcf", n, 5.0 + 0.05 * n, failed=1) for n in range(3)])
    assert verdict.verdict is ComparisonVerdict.WORSE


def test_the_summary_counts_every_cell_and_says_what_chance_does() -> None:
    loads = tuple(LoadPoint(f"w{i}", 1.0) for i in range(4))
    runs = []
    for index, load in enumerate(loads):
        for n in range(3):
            for name, e2e_s in (
                ("preempt-evict", 2.0 + 0.1 * n),
                ("lcf", (1.0, 4.0, 2.0, 2.1)[index] + 0.1 * n),
            ):
                made = run_of(name, n, e2e_s)
                runs.append(replace(made, cell=ExperimentCell(RunGroup(load, n), name, 0)))
    outcome = analyze_runs(ExperimentPlan("vllm", ("preempt-evict", "lcf"), loads, 3, 10, 0), runs)
    overall = outcome.overall[0]
    assert sum(overall.counts.values()) == 4
    assert overall.counts[ComparisonVerdict.BETTER] == 1
    assert overall.counts[ComparisonVerdict.WORSE] == 2
    assert overall.by_chance == pytest.approx(0.2)
    text = describe(outcome)
    assert "best w0 at 1/s" in text
    assert "worst w1 at 1/s" in text
    assert "about 0.2 would be called better or worse by chance alone" in text


def test_the_engines_own_rule_is_the_baseline_where_it_runs() -> None:
    assert choose_baseline(["lcf", "preempt-evict"]) == "preempt-evict"
    assert choose_baseline(["bidkv", "sglang_default"]) == "sglang_default"
    assert choose_baseline(["lcf", "bidkv"]) == "lcf"


def test_failures_count_against_every_objective() -> None:
    run = run_of("lcf", 0, 2.0, failed=4).result
    assert attainment(run, LatencyTarget()) == 0.6
    assert attainment(run, LatencyTarget(e2e_s=1.9)) == 0.0
    assert attainment(run, LatencyTarget(ttft_s=0.05)) == 0.0
    assert attainment(run, LatencyTarget(tpot_s=0.24)) == 0.6
    assert goodput_rps(run, LatencyTarget(e2e_s=2.5)) == pytest.approx(6 / run.span_s)
    with pytest.raises(ValueError, match="ttft_s must be > 0"):
        LatencyTarget(ttft_s=0.0)
