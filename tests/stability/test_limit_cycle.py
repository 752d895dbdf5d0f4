import math
import random

import pytest

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine
from bidkv.stability import CycleReport, LimitCycleDetector


def watched(use, recompute=0.3, seconds=300) -> CycleReport:
    detector = LimitCycleDetector(window_s=120.0)
    for second in range(seconds):
        detector.update(float(second), use(second), 1000, int(1000 * recompute))
    return detector.get()


def wave(second: float) -> float:
    return 0.7 + 0.25 * math.sin(second * 2.0 * math.pi / 20.0)


def test_a_steady_swing_with_recompute_is_a_cycle():
    report = watched(wave)
    assert report.is_cycling
    assert report.period_s == pytest.approx(20.0, rel=0.05)
    assert report.swing == pytest.approx(0.5, abs=0.03)
    assert report.recompute_share == pytest.approx(0.3)


def test_a_swing_without_recompute_is_none():
    assert not watched(wave, recompute=0.01).is_cycling


def test_a_level_that_stands_still_with_recompute_is_none():
    rng = random.Random(1)
    report = watched(lambda second: 0.97 + 0.03 * rng.random())
    assert (report.is_cycling, report.turns, report.swing) == (False, 0, 0.0)


def test_swings_without_a_beat_are_none():
    rng = random.Random(4)
    levels = [0.3, 0.9]
    ends = []
    at = 0.0
    while at < 300.0:
        at += rng.choice((2.0, 31.0))
        ends.append(at)
    assert not watched(lambda second: levels[sum(end <= second for end in ends) % 2]).is_cycling


def test_a_cycle_that_ended_is_forgotten():
    assert not watched(lambda second: wave(second) if second < 200 else 0.7, seconds=500).is_cycling


def test_rising_recompute_is_seen():
    detector = LimitCycleDetector(window_s=120.0)
    for second in range(240):
        detector.update(float(second), 0.9, 1000, second)
    assert detector.get().is_recompute_rising
    assert not watched(wave).is_recompute_rising


def test_equal_requests_that_start_together_cycle_in_the_simulated_engine():
    config = EngineConfig(num_gpu_blocks=2001, max_num_seqs=256)
    engine = VllmStepEngine(config, load_profile("h100-llama3.1-8b"), Controller(resolve("preempt-evict")))
    for index in range(1500):
        engine.submit(SimRequest(WorkloadRequest(f"r{index}", 0.0, 100, 400), config.model_len))
    detector = LimitCycleDetector(window_s=60.0)
    while engine.num_waiting:
        computed, recomputed = engine.num_scheduled_tokens, engine.books.recomputed_tokens
        engine.step()
        detector.update(
            engine.now_s,
            len(engine.running) / engine.max_num_seqs,
            engine.num_scheduled_tokens - computed,
            engine.books.recomputed_tokens - recomputed,
        )
    report = detector.get()
    assert report.is_cycling
    assert report.recompute_share > 0.2


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_bad_observations_are_refused(bad):
    with pytest.raises(ValueError, match="level"):
        LimitCycleDetector().update(0.0, bad, 1, 0)
    with pytest.raises(ValueError, match="recomputed_tokens"):
        LimitCycleDetector().update(0.0, 0.5, 1, -2)
    with pytest.raises(ValueError, match="least_swing"):
        LimitCycleDetector(least_swing=bad)
