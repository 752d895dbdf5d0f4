"""The fewest replicas that keep a target, found by simulated fleets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.random_plans import FIRST_SEED, make_case, run_case, summarize

from bidkv.evaluation.latency_target import LatencyTarget
from bidkv.planning import Demand, FleetCheck, make_plan, size_plan
from bidkv.planning.fleet import make_workload
from bidkv.planning.sizing import MOST_SIMULATED, find_fewest, size_fleet
from bidkv.planning.text import plan_text
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.stability import ReplicaShape

PROFILE = load_profile("h100-llama3.1-8b")
SHAPE, ENGINE = ReplicaShape(600, max_num_seqs=32), EngineConfig(601, max_num_seqs=32)


def check_of(replicas: int, holds: bool) -> FleetCheck:
    return FleetCheck(replicas, 1.0, 1.0, not holds, 0.5, 1.0, 0.01, holds)


@pytest.mark.parametrize("fewest", [1, 2, 7, 16, 90])
@pytest.mark.parametrize("guess", [1, 3, 8, 20, 100])
def test_the_fewest_are_found_from_any_guess_in_few_trials(fewest: int, guess: int) -> None:
    tried: list[int] = []

    def trial(replicas: int) -> FleetCheck:
        tried.append(replicas)
        return check_of(replicas, replicas >= fewest)

    found = find_fewest(trial, guess)
    assert found is not None
    assert (found.replicas, found.holds) == (fewest, True)
    assert len(tried) == len(set(tried)) <= 14


def test_bounds_of_the_search_are_kept() -> None:
    assert find_fewest(lambda n: check_of(n, False), 3, most=40) is None
    found = find_fewest(lambda n: check_of(n, True), 9, least=4)
    assert found is not None
    assert found.replicas == 4


def test_a_busy_hour_takes_what_its_own_arrivals_need() -> None:
    """The closed form may plan more, never fewer, for this trace."""
    requests, now_s = [], 0.0
    for rate, seconds in ((0.08, 3600.0), (2.4, 1800.0), (0.08, 3600.0)):
        end_s = now_s + seconds
        while now_s < end_s:
            requests.append(WorkloadRequest(f"r{len(requests)}", now_s, 2000 + len(requests) % 500, 300))
            now_s += 1.0 / rate
    demand = Demand.from_requests(requests, "day")
    target = LatencyTarget(ttft_s=1.0)
    closed = make_plan(demand, SHAPE, PROFILE, target=target)
    plan, sizing = size_plan(closed, demand, ENGINE, PROFILE, target=target)
    assert plan.replicas is not None
    assert closed.replicas is not None
    assert plan.replicas <= closed.replicas == sizing.closed_form
    assert sizing.now is not None
    assert sizing.now.ttft_p99_s <= 1.0
    assert max(number or 0 for number in plan.replicas_over_time) >= plan.replicas > 1
    fewer = size_fleet(
        demand, ENGINE, PROFILE, target=target, guess=plan.replicas - 1, most=plan.replicas - 1
    )
    assert fewer is None
    text = plan_text(plan, sizing=sizing)
    assert f"the closed form says {closed.replicas} now" in text
    assert "simulated now" in text
    json.dumps(plan.as_dict(), allow_nan=False)


def test_large_fleets_are_simulated_in_part() -> None:
    demand = Demand.uniform((200, 200), (100, 100), 2400.0)
    target = LatencyTarget(ttft_s=2.0)
    plan = make_plan(demand, SHAPE, PROFILE, target=target)
    assert plan.replicas is not None
    assert plan.replicas > MOST_SIMULATED
    sized, sizing = size_plan(plan, demand, ENGINE, PROFILE, target=target, with_growth=False)
    assert sizing.now is not None
    assert sized.replicas == sizing.now.replicas
    assert 0.4 * plan.replicas < sizing.now.replicas <= 1.1 * plan.replicas
    whole = demand.requests or make_workload(demand, ENGINE, 1.0, 4000, 1)
    part = make_workload(demand, ENGINE, 1.0, 4000, 1, part=4)
    assert part[-1].arrival_s == pytest.approx(4 * whole[-1].arrival_s)


def test_a_target_that_an_idle_replica_misses_is_refused() -> None:
    demand = Demand.uniform((4000, 4000), (100, 100), 2.0)
    target = LatencyTarget(ttft_s=0.001)
    closed = make_plan(demand, SHAPE, PROFILE, target=target)
    plan, sizing = size_plan(closed, demand, ENGINE, PROFILE, target=target)
    assert (plan.replicas, plan.replicas_grown, sizing.now) == (None, None, None)
    assert "no number of replicas keeps the target" in plan_text(plan, sizing=sizing)


def test_random_plans_promise_what_simulation_keeps(campaign: bool, tmp_path: Path) -> None:
    """Five cases, or 200: at least 95 % kept, with at most 15 % more replicas than the fewest."""
    number = 200 if campaign else 5
    rows = [run_case(make_case(seed)) for seed in range(FIRST_SEED, FIRST_SEED + number)]
    print(summarize(rows))
    promised = [row for row in rows if row["planned"] is not None]
    assert len(promised) >= 0.8 * number
    # Of five, one may miss by chance where one in twenty does.
    assert sum(not row["kept"] for row in promised) <= (0.05 * len(promised) if campaign else 1)
    both = [row for row in promised if row["fewest"] is not None]
    assert sum(row["planned"] for row in both) <= 1.15 * sum(row["fewest"] for row in both) + 1


def test_the_campaign_finds_out_a_plan_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(FIRST_SEED)
    monkeypatch.setattr(
        "benchmarks.random_plans.size_plan", lambda plan, *_, **__: (replace(plan, replicas=1), 0)
    )
    row = run_case(case)
    assert row["kept"] is False
    assert row["fewest"] > 2
    assert "kept in simulation 0 (0.0 %)" in summarize([row])
