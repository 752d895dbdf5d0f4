import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.stability import ArrivalRate, ForgettingMoments


def poisson_times(rate_rps: float, count: int, rng: random.Random) -> list[float]:
    at, times = rng.uniform(0.0, 100.0), []
    for _ in range(count):
        times.append(at)
        at += rng.expovariate(rate_rps)
    return times


def fed(times, window_s=60.0) -> ArrivalRate:
    rate = ArrivalRate(window_s)
    for at in times:
        rate.update(at)
    return rate


@pytest.mark.parametrize("rate_rps", [0.5, 1.0, 5.0, 50.0])
def test_thirty_poisson_arrivals_give_the_rate_within_40_percent_in_95_of_100_trials(rate_rps):
    rng = random.Random(7)
    trials = 2000
    close = sum(
        abs(fed(poisson_times(rate_rps, 30, rng)).get().value / rate_rps - 1.0) <= 0.4 for _ in range(trials)
    )
    assert close >= 0.95 * trials


def test_the_rate_is_unbiased_from_few_poisson_arrivals():
    rng = random.Random(3)
    values = [fed(poisson_times(4.0, 15, rng)).get().value for _ in range(4000)]
    assert statistics.fmean(values) == pytest.approx(4.0, rel=0.03)


def test_the_stated_interval_covers_the_rate():
    rng = random.Random(5)
    trials, covered = 2000, 0
    for _ in range(trials):
        low, high = fed(poisson_times(4.0, 60, rng)).get().interval()
        covered += low <= 4.0 <= high
    assert 0.90 * trials <= covered <= 0.99 * trials


def test_five_windows_of_silence_leave_less_than_5_percent():
    rate = fed([0.2 * i for i in range(1000)])
    before = rate.get().value
    assert rate.get(now_s=0.2 * 999 + 300.0).value < 0.05 * before


def test_a_change_of_rate_is_followed():
    rate = fed([float(i) for i in range(300)] + [300.0 + 0.1 * i for i in range(3000)], window_s=60.0)
    assert rate.get().value == pytest.approx(10.0, rel=0.02)


@given(per_batch=st.integers(1, 40), batches=st.integers(3, 30), gap_s=st.floats(0.01, 20.0))
def test_batches_count_in_full(per_batch, batches, gap_s):
    rate = fed([i * gap_s for i in range(batches) for _ in range(per_batch)])
    assert rate.get().value == pytest.approx(per_batch / gap_s, rel=1e-6)


def test_disorder_changes_little():
    rng = random.Random(11)
    times = poisson_times(5.0, 600, rng)
    late = sorted(times, key=lambda t: t + rng.uniform(0.0, 3.0))
    assert late != times
    assert fed(late).get().value == pytest.approx(fed(times).get().value, rel=0.10)


def test_an_arrival_older_than_all_others_is_counted():
    ordered = fed([10.0, 11.0, 12.0, 13.0])
    late = fed([11.0, 12.0, 13.0, 10.0])
    assert late.count == ordered.count
    assert late.get().value == pytest.approx(ordered.get().value, rel=0.3)


@given(st.lists(st.floats(0.0, 1e6), min_size=2, max_size=60))
def test_any_history_gives_a_finite_rate_or_says_that_there_is_none(times):
    estimate = fed(times).get()
    if max(times) - min(times) <= 1e-9:
        assert math.isnan(estimate.value)
        assert not estimate.enough
    else:
        assert 0.0 <= estimate.value < math.inf
        assert 0.0 <= estimate.stderr < math.inf


def test_enough_is_said_at_ten_samples():
    rate = ArrivalRate(60.0)
    said = []
    for i in range(12):
        rate.update(float(i))
        said.append(rate.get().enough)
    assert said == [False] * 9 + [True] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_estimators_reject_what_is_no_number(bad):
    rate, moments = fed([1.0]), ForgettingMoments(60.0)
    with pytest.raises(ValueError, match="at_s must be finite"):
        rate.update(bad)
    with pytest.raises(ValueError, match="must be finite"):
        moments.update(bad, 0.0)
    with pytest.raises(ValueError, match="must be finite"):
        moments.update(0.0, bad)
    assert (rate.count, moments.count) == (1, 0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_windows_must_be_positive(bad):
    with pytest.raises(ValueError, match="window_s must be > 0"):
        ArrivalRate(bad)
    with pytest.raises(ValueError, match="window_s must be > 0"):
        ForgettingMoments(bad)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_without_forgetting_the_moments_are_the_sample_moments(values):
    moments = ForgettingMoments(math.inf)
    for i, value in enumerate(values):
        moments.update(value, float(i))
    assert moments.get().value == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert moments.variance == pytest.approx(statistics.variance(values), rel=1e-6, abs=1e-3)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.0, 300.0)), min_size=2, max_size=40))
def test_forgetting_moments_equal_the_weighted_sums_in_any_order(pairs):
    moments = ForgettingMoments(60.0)
    for value, at in pairs:
        moments.update(value, at)
    newest = max(at for _, at in pairs)
    weights = [math.exp((at - newest) / 60.0) for _, at in pairs]
    mean = math.fsum(w * v for w, (v, _) in zip(weights, pairs, strict=True)) / math.fsum(weights)
    assert moments.get().value == pytest.approx(mean, rel=1e-9, abs=1e-7)


def test_old_values_are_forgotten():
    moments = ForgettingMoments(60.0)
    for i in range(500):
        moments.update(30.0, float(i))
    for i in range(20):
        moments.update(2.0, 1000.0 + i)
    assert moments.get().value == pytest.approx(2.0, rel=0.05)


def test_one_value_has_no_error_bar():
    moments = ForgettingMoments(60.0)
    assert math.isnan(moments.get().value)
    moments.update(3.0, 0.0)
    estimate = moments.get()
    assert (estimate.value, estimate.stderr, estimate.enough) == (3.0, math.inf, False)
