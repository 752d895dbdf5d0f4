import math

import pytest

from bidkv.stability import (
    ArrivalRate,
    Estimate,
    LoadVerdict,
    ReplicaShape,
    UniformLaw,
    assess,
    service_rate,
)


@pytest.fixture(scope="module")
def service():
    law = UniformLaw((10, 1600), (10, 1600))
    return service_rate(law, ReplicaShape(2048), lambda *batch: 0.01)


def test_outside_the_interval_the_verdict_is_clear(service):
    assert assess(0.99 * service.low_rps, service).verdict is LoadVerdict.STABLE
    assert assess(1.01 * service.high_rps, service).verdict is LoadVerdict.UNSTABLE
    at = assess(service.sustainable_rps, service)
    assert at.verdict is LoadVerdict.UNCERTAIN
    assert at.utilization == pytest.approx(1.0)
    assert at.utilization_low < 1.0 < at.utilization_high
    assert at.margin_pct == pytest.approx(0.0, abs=1e-9)


def test_both_utilizations_are_reported(service):
    result = assess(1.0, service)
    assert result.utilization == pytest.approx(1.0 / service.sustainable_rps)
    assert result.plain_utilization == pytest.approx(1.0 / service.plain_rps)
    assert result.plain_utilization != result.utilization


def test_an_unsure_rate_makes_an_unsure_verdict(service):
    half = 0.5 * service.sustainable_rps
    assert assess(Estimate(half, 0.05 * half, 100.0, True), service).verdict is LoadVerdict.STABLE
    assert assess(Estimate(half, 0.6 * half, 100.0, True), service).verdict is LoadVerdict.UNCERTAIN
    assert assess(Estimate(half, 0.0, 3.0, False), service).verdict is LoadVerdict.UNCERTAIN


def test_a_live_estimate_can_be_judged(service):
    rate = ArrivalRate(60.0)
    for i in range(200):
        rate.update(10.0 * i / service.sustainable_rps)
    assert assess(rate.get(), service).verdict is LoadVerdict.STABLE


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_rates_are_refused(service, bad):
    with pytest.raises(ValueError, match="arrivals_rps"):
        assess(bad, service)
