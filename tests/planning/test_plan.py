import dataclasses
import json
import math

import pytest

from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.evaluation.saturation import backlog_growth, measure_saturation, poisson_requests
from bidkv.planning import Demand, check_rates, make_plan, verify_fleet
from bidkv.planning.text import plan_text
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import LoadVerdict, ReplicaShape

PROFILE = load_profile("h100-llama3.1-8b")
SHAPE = ReplicaShape(600, max_num_seqs=32)
ENGINE = EngineConfig(num_gpu_blocks=601, max_num_seqs=32)
EVEN = Demand.uniform((10, 1600), (10, 1600), 3.0)


def test_the_rate_and_law_of_a_workload_are_measured():
    requests = [WorkloadRequest(f"r{i}", 0.5 * i, 100 + i, 10) for i in range(21)]
    demand = Demand.from_requests(requests, "mine")
    assert demand.arrivals.value == pytest.approx(2.0)
    assert demand.arrivals.stderr == pytest.approx(0.0, abs=1e-9)
    assert demand.law.draws == 21
    assert demand.law.largest_tokens == 130
    assert sorted(demand.draw(21, seed=1)) == [(100 + i, 10) for i in range(21)]


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0]])
def test_a_rate_needs_two_instants(times):
    requests = [WorkloadRequest(f"r{i}", at, 10, 10) for i, at in enumerate(times)]
    with pytest.raises(ValueError, match="mine: a rate needs at least two requests"):
        Demand.from_requests(requests, "mine")


def test_a_plan_adds_up():
    plan = make_plan(EVEN, SHAPE, PROFILE, growth=3.0, target_utilization=0.5)
    mu = plan.service.sustainable_rps
    assert plan.planned_rps == pytest.approx(0.5 * mu)
    assert plan.replicas == math.ceil(3.0 / (0.5 * mu))
    assert plan.replicas_grown == math.ceil(9.0 / (0.5 * mu))
    assert plan.one_replica.verdict is LoadVerdict.UNSTABLE
    assert plan.each.arrivals_rps == pytest.approx(3.0 / plan.replicas)
    narrow, half = plan.options[0], plan.options[1]
    assert half.sustainable_rps > narrow.sustainable_rps > mu
    assert narrow.replicas < plan.replicas_grown
    document = json.loads(json.dumps(plan.as_dict(), allow_nan=False))
    assert document["service"]["limit"] == "memory"


def test_a_target_costs_replicas_and_an_impossible_one_is_said_to_be():
    free = make_plan(EVEN, SHAPE, PROFILE)
    kept = make_plan(EVEN, SHAPE, PROFILE, target=LatencyTarget(ttft_s=1.0))
    assert kept.promised_rps < kept.service.sustainable_rps
    assert kept.replicas > free.replicas
    assert kept.each.ttft_p99_s <= 1.0
    never = make_plan(EVEN, SHAPE, PROFILE, target=LatencyTarget(tpot_s=1e-4))
    assert (never.replicas, never.each, never.promised_rps) == (None, None, 0.0)
    assert "no number of replicas keeps the target" in plan_text(never)


def test_sequences_are_offered_where_they_bind():
    plan = make_plan(EVEN, ReplicaShape(8192, max_num_seqs=16), PROFILE)
    assert plan.options[-1].name == "twice the sequences"
    assert plan.options[-1].gain_pct > 30.0
    assert plan.options[0].gain_pct == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"growth": 0.0}, "growth"), ({"target_utilization": 1.1}, "target_utilization")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_plan(EVEN, SHAPE, PROFILE, **options)
    with pytest.raises(ValueError, match="rate must be"):
        Demand.uniform((1, 2), (1, 2), 0.0)


def test_the_check_holds_at_nine_tenths_and_breaks_at_eleven():
    plan = make_plan(EVEN, SHAPE, PROFILE)
    low, _, high = check_rates(EVEN, plan.service, ENGINE, PROFILE, requests=5000)
    assert not low.is_growing
    assert high.is_growing
    assert high.throughput_rps == pytest.approx(plan.service.sustainable_rps, rel=0.05)
    text = plan_text(plan, [low, high])
    assert "the queue stays" in text
    assert "the queue grows" in text


def verified(rate, *, target=NO_TARGET, plan=None, router="round-robin"):
    demand = Demand.uniform((10, 1600), (10, 1600), rate)
    plan = plan or make_plan(demand, SHAPE, PROFILE, target=target)
    return plan, verify_fleet(plan, demand, ENGINE, PROFILE, target=target, router=router)


@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
def test_a_planned_fleet_holds_and_the_fewest_are_no_more(router):
    target = LatencyTarget(ttft_s=0.5)
    plan, fleet = verified(3.0, target=target, router=router)
    assert fleet.router == router
    for answer, planned, rate in ((fleet.now, plan.replicas, 3.0), (fleet.grown, plan.replicas_grown, 6.0)):
        assert (answer.planned.replicas, answer.planned.arrivals_rps) == (planned, rate)
        assert answer.planned.holds
        assert not answer.planned.is_growing
        assert answer.fewest.holds
        # No fewer than what memory allows at all, no more than planned.
        assert rate / plan.service.high_rps < answer.fewest.replicas <= planned
        assert answer.fewest.ttft_p99_s <= 0.5
        assert answer.planned.ttft_p99_s <= answer.fewest.ttft_p99_s
    text = plan_text(plan, (), fleet)
    assert f"behind a {router} router" in text
    assert f"{fleet.now.fewest.replicas} replicas, 3.00 req/s in" in text


def test_a_plan_that_is_too_small_is_found_out():
    plan, _ = verified(3.0)
    small = dataclasses.replace(plan, replicas=2, replicas_grown=1)
    _, fleet = verified(3.0, plan=small)
    assert fleet.now.planned.is_growing
    assert not fleet.now.planned.holds
    assert 2 < fleet.now.fewest.replicas <= 4
    assert fleet.grown.fewest is None
    text = plan_text(small, (), fleet)
    assert "the queues grow" in text
    assert "more than 2: twice the plan does not hold" in text


def test_a_fleet_that_misses_the_target_is_said_to():
    plan, fleet = verified(3.0, target=LatencyTarget(tpot_s=1e-4), plan=verified(3.0)[0])
    assert not fleet.now.planned.is_growing
    assert not fleet.now.planned.holds
    assert "misses the target" in plan_text(plan, (), fleet)


def test_no_number_of_replicas_is_no_fleet():
    _, fleet = verified(3.0, target=LatencyTarget(tpot_s=1e-4))
    assert fleet is None


def test_saturation_needs_a_queue():
    with pytest.raises(ValueError, match="do not saturate"):
        measure_saturation([(100, 10)] * 5, ENGINE, PROFILE)


def test_the_backlog_grows_by_what_is_too_much():
    pairs = [(200, 200)] * 4000
    mu = measure_saturation(pairs, ENGINE, PROFILE).rate_rps
    growths = [
        backlog_growth(
            simulate(poisson_requests(pairs, share * mu, 1), resolve("preempt-evict"), ENGINE, PROFILE)
        )
        for share in (0.8, 1.25)
    ]
    assert growths[0] == pytest.approx(0.0, abs=0.02)
    assert growths[1] == pytest.approx(0.2, abs=0.05)
