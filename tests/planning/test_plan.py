import dataclasses
import importlib
import json
import math
from itertools import pairwise

import pytest

from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.evaluation.saturation import backlog_growth, measure_saturation, poisson_requests
from bidkv.planning import Demand, check_rates, make_plan, verify_fleet
from bidkv.planning.resampling import thin_days
from bidkv.planning.text import plan_text
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import LoadVerdict, ReplicaModel, ReplicaShape, UniformLaw

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
    assert kept.each.ttft_p99_high_s <= 1.0
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
    options = {"target": target, "router": router, "requests_each": 1000}
    return plan, verify_fleet(plan, demand, ENGINE, PROFILE, **options)


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
    small = dataclasses.replace(make_plan(EVEN, SHAPE, PROFILE), replicas=2, replicas_grown=1)
    _, fleet = verified(3.0, plan=small)
    assert fleet.now.planned.is_growing
    assert not fleet.now.planned.holds
    assert 2 < fleet.now.fewest.replicas <= 4
    assert fleet.grown.fewest is None
    text = plan_text(small, (), fleet)
    assert "the queues grow" in text
    assert "more than 2: twice the plan is too few" in text


def test_a_fleet_that_misses_the_target_is_said_to():
    untargeted = make_plan(EVEN, SHAPE, PROFILE)
    plan, fleet = verified(3.0, target=LatencyTarget(tpot_s=1e-4), plan=untargeted)
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


def trace_of(rates_rps, window_s=300.0, lengths=(200, 50)):
    """Requests evenly spread within windows of the given rates."""
    requests, start_s = [], 0.0
    for rate in rates_rps:
        number = round(rate * window_s)
        requests += [
            WorkloadRequest(f"r{len(requests) + i}", start_s + (i + 0.5) * window_s / number, *lengths)
            for i in range(number)
        ]
        start_s += window_s
    return requests


def test_a_trace_with_a_busy_hour_is_planned_for_that_hour():
    quiet_and_busy = [0.1] * 18 + [3.0] * 6 + [0.1] * 6
    demand = Demand.from_requests(trace_of(quiet_and_busy), "day")
    assert not demand.windows.is_stationary
    assert demand.busy.value == pytest.approx(3.0)
    assert demand.arrivals.value < 0.8
    plan = make_plan(demand, SHAPE, PROFILE, target=LatencyTarget(ttft_s=2.0))
    assert plan.busy_rps == pytest.approx(3.0)
    steady = make_plan(
        Demand.from_requests(trace_of([3.0] * 10), "steady"),
        SHAPE,
        PROFILE,
        target=LatencyTarget(ttft_s=2.0),
    )
    assert steady.windows.is_stationary
    assert plan.replicas == steady.replicas
    assert max(plan.replicas_over_time) == plan.replicas
    assert min(plan.replicas_over_time) < plan.replicas or plan.replicas == 1
    text = plan_text(plan)
    assert "in the busiest 5 % of windows of 5 minutes" in text
    assert "replicas over time" in text
    assert "replicas over time" not in plan_text(steady)
    document = json.loads(json.dumps(plan.as_dict(), allow_nan=False))
    assert document["windows"]["replicas"] == list(plan.replicas_over_time)


def test_chance_alone_does_not_make_arrivals_unsteady():
    law = [(100, 20)] * 4000
    demand = Demand.from_requests(poisson_requests(law, 1.0, seed=3), "poisson")
    assert demand.windows.is_stationary
    assert demand.busy == demand.arrivals
    short = Demand.from_requests(poisson_requests(law[:500], 1.0, seed=3), "short")
    assert short.windows is None


def test_a_simulated_fleet_gets_the_traces_own_arrivals():
    lengths = (800, 800)
    busy = Demand.from_requests(trace_of([0.2] * 8 + [4.0] * 4 + [0.2] * 8, lengths=lengths), "busy")
    plan = dataclasses.replace(make_plan(busy, SHAPE, PROFILE), replicas=1, replicas_grown=1)
    fleet = verify_fleet(plan, busy, ENGINE, PROFILE)
    # One replica sustains the mean of about 1 request a second, but not the busy twenty minutes.
    assert fleet.now.planned.is_growing
    assert "the queues grow" in plan_text(plan, (), fleet)


def test_nothing_is_called_kept_where_nothing_was_asked():
    plan, fleet = verified(3.0)
    text = plan_text(plan, (), fleet)
    assert "the queues stay" in text
    assert "keeps the target" not in text
    asked, kept = verified(3.0, target=LatencyTarget(ttft_s=20.0))
    assert "keeps the target" in plan_text(asked, (), kept)


@pytest.mark.parametrize(
    ("prompt", "output", "rate", "budget"),
    [(6000, 2, 4.0, 65000), (6000, 8, 3.0, 2048), (6000, 8, 1.5, 2048), (500, 200, 20.0, 2048)],
)
def test_short_answers_beside_long_prompts_wait_for_their_tokens(prompt, output, rate, budget):
    shape = ReplicaShape(26_999, max_num_seqs=256, max_num_batched_tokens=budget)
    demand = Demand.uniform((prompt, prompt), (output, output), rate)
    plan = make_plan(demand, shape, PROFILE)
    model_rate = rate / plan.replicas
    engine = EngineConfig(num_gpu_blocks=27_000, max_num_batched_tokens=budget)
    requests = poisson_requests([(prompt, output)] * 3000, model_rate, 1)
    measured = simulate(requests, resolve("preempt-evict"), engine, PROFILE).summary()
    alone = make_plan(Demand.uniform((prompt, prompt), (output, output), model_rate), shape, PROFILE)
    assert alone.each.answer_tpot_s == pytest.approx(measured["tpot_s"]["mean"], rel=0.2)
    assert alone.each.ttft_p99_high_s == pytest.approx(measured["ttft_s"]["p99"], rel=0.4)
    assert alone.each.ttft_p99_high_s >= alone.each.ttft_s


def test_the_99th_percentile_is_never_below_the_mean():
    plan = make_plan(Demand.uniform((100, 400), (500, 16_000), 1.0), ReplicaShape(8191), PROFILE)
    assert plan.each.ttft_p99_high_s >= plan.each.ttft_s


def test_an_even_stream_of_arrivals_meets_fewer_prompts():
    """Behind a round-robin router the arrivals at one of several replicas are more even."""
    shape = ReplicaShape(26_999, max_num_seqs=256)
    model = ReplicaModel(UniformLaw((6000, 6000), (8, 8)), shape, PROFILE.for_engine(256, 2048).step_s)
    one, four = model.at(2.0), model.at(2.0, replicas=4)
    assert four.answer_tpot_s < one.answer_tpot_s
    assert four.ttft_p99_high_s < one.ttft_p99_high_s
    assert four.tpot_s == one.tpot_s


def test_a_large_fleet_is_simulated_as_a_share_of_itself_and_a_short_trace_goes_on(monkeypatch):
    monkeypatch.setattr(importlib.import_module("bidkv.planning.fleet"), "MOST_SIMULATED", 2)
    demand = Demand.from_requests(poisson_requests([(300, 60)] * 400, 6.0, seed=3), "short")
    plan = dataclasses.replace(make_plan(demand, SHAPE, PROFILE), replicas=1, replicas_grown=8)
    told = []
    answer = verify_fleet(plan, demand, ENGINE, PROFILE, requests_each=700, on_trial=told.append).grown
    assert (answer.planned.replicas, answer.fewest.replicas) == (8, 4)
    assert {check.replicas for check in told} == {1, 2}
    assert answer.planned.arrivals_rps == pytest.approx(12.0, rel=0.1)
    assert answer.planned.throughput_rps == pytest.approx(12.0, rel=0.1)


def test_days_follow_each_other_until_there_are_enough_requests():
    requests = poisson_requests([(300 + number, 60) for number in range(400)], 1.0, seed=3)
    assert [r.arrival_s for r in thin_days(requests, 400, 1)] == [r.arrival_s for r in requests]
    thinned = thin_days(requests, 1000, 1, part=4)
    assert len({request.request_id for request in thinned}) == len(thinned) == 1000
    # The first four days are the trace's own requests, each of them once.
    assert sorted(request.prompt_tokens for request in thinned[:400]) == [300 + k for k in range(400)]
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(thinned))
    assert thinned[-1].arrival_s == pytest.approx(10 * requests[-1].arrival_s, rel=0.1)
