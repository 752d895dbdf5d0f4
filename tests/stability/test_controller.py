import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidkv.stability import DecisionReason, QueueingConfig, QueueingController


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def loaded(
    rate_rps=5.0, service_ms=100.0, blocks=10, count=100, config=None, clock=None
) -> QueueingController:
    controller = QueueingController(config, clock=clock or Clock())
    for i in range(count):
        controller.record_request_arrival(i / rate_rps, 160, "a")
        controller.record_request_completion(i / rate_rps, service_ms, blocks, "a")
    return controller


def test_before_ten_completions_the_defaults_hold():
    controller = QueueingController()
    for i in range(9):
        controller.record_request_completion(float(i), 5000.0, 99, "a")
    state = controller.compute_stability_state(100, 100)
    assert (state.arrival_rate_lambda, state.service_rate_mu, state.mean_blocks_per_request) == (
        0.1,
        1.0,
        16.0,
    )
    assert state.minimum_stable_blocks == math.ceil(0.1 * 1.0 * 16 * 1.15)


def test_announced_tokens_give_the_demand_before_anything_completes():
    controller = QueueingController()
    for i in range(5):
        controller.record_request_arrival(float(i), 1600, "a")
    assert controller.compute_stability_state(100, 200).mean_blocks_per_request == 100.0


def test_the_formulas():
    state = loaded(rate_rps=5.0, service_ms=100.0, blocks=10).compute_stability_state(60, 100)
    assert state.arrival_rate_lambda == pytest.approx(5.0)
    assert state.service_rate_mu == pytest.approx(10.0)
    assert state.utilization_rho == pytest.approx(0.5)
    assert state.minimum_stable_blocks == math.ceil(5.0 * 0.1 * 10 * 1.15)
    assert state.lambda_critical == pytest.approx(60 / (0.1 * 10 * 1.15))
    assert state.is_stable
    assert state.stability_margin_pct == pytest.approx(50.0)


def test_overload_is_reported_unclamped_and_unstable():
    state = loaded(rate_rps=5.0, service_ms=1000.0).compute_stability_state(100, 100)
    assert state.utilization_rho == pytest.approx(5.0)
    assert not state.is_stable
    assert state.stability_margin_pct < 0.0


def test_rho_of_exactly_one_is_unstable():
    state = loaded(rate_rps=4.0, service_ms=250.0, blocks=1).compute_stability_state(100, 100)
    assert state.utilization_rho == pytest.approx(1.0)
    assert state.is_stable == (state.utilization_rho < 1.0)


def test_a_server_that_batches_is_not_one_server():
    config = QueueingConfig(concurrency=32)
    state = loaded(rate_rps=5.0, service_ms=1000.0, config=config).compute_stability_state(100, 100)
    assert state.service_rate_mu == pytest.approx(32.0)
    assert state.is_stable


def test_the_floor_never_exceeds_what_exists():
    state = loaded(rate_rps=50.0, service_ms=10_000.0, blocks=90).compute_stability_state(100, 100)
    assert state.minimum_stable_blocks == 100
    assert not state.is_stable


def test_the_rate_is_right_after_ten_arrivals():
    state = loaded(rate_rps=5.0, count=10).compute_stability_state(100, 100)
    assert state.arrival_rate_lambda == pytest.approx(5.0, rel=0.01)


def test_the_rate_decays_in_silence_on_the_injected_clock():
    clock = Clock()
    controller = loaded(clock=clock)
    before = controller.compute_stability_state(100, 100).arrival_rate_lambda
    clock.now_s += 5 * 60.0
    assert controller.compute_stability_state(100, 100).arrival_rate_lambda < 0.05 * before


def test_service_times_are_forgotten():
    controller = loaded(service_ms=10_000.0)
    for i in range(50):
        controller.record_request_completion(1000.0 + i, 100.0, 2, "a")
    state = controller.compute_stability_state(100, 100)
    assert state.service_rate_mu == pytest.approx(10.0, rel=0.01)
    assert state.mean_blocks_per_request == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_events_reject_negative_and_unreal_numbers(bad):
    controller = QueueingController()
    with pytest.raises(ValueError, match="timestamp"):
        controller.record_request_arrival(bad, 1, "a")
    with pytest.raises(ValueError, match="token_count"):
        controller.record_request_arrival(0.0, bad, "a")
    with pytest.raises(ValueError, match="timestamp"):
        controller.record_request_completion(bad, 1.0, 1, "a")
    with pytest.raises(ValueError, match="service_time_ms"):
        controller.record_request_completion(0.0, bad, 1, "a")
    with pytest.raises(ValueError, match="blocks_consumed"):
        controller.record_request_completion(0.0, 1.0, bad, "a")
    with pytest.raises(ValueError, match="current_free_blocks"):
        controller.compute_stability_state(bad, 100)
    with pytest.raises(ValueError, match="requested_new_blocks"):
        controller.decide(10, 100, bad)
    assert controller.agent_counts() == {}


def test_free_blocks_cannot_exceed_total_blocks():
    with pytest.raises(ValueError, match=r"current_free_blocks must be in \[0, total_blocks\]"):
        QueueingController().compute_stability_state(101, 100)


def test_agent_ids_are_strings():
    with pytest.raises(ValueError, match="agent_id must be a string"):
        QueueingController().record_request_arrival(0.0, 1, 7)


def test_agents_are_counted_in_bounded_memory():
    controller = QueueingController()
    for i in range(1000):
        controller.record_request_arrival(float(i), 1, "heavy")
        controller.record_request_arrival(float(i), 1, f"agent-{i}")
        controller.record_request_completion(float(i), 1.0, 3, "heavy")
    counts = controller.agent_counts()
    assert len(counts) == 257
    assert counts["heavy"].arrivals == 1000
    assert counts["heavy"].blocks == 3000
    assert counts["heavy"].share == pytest.approx(0.5)
    assert sum(c.arrivals for c in counts.values()) == 2000


def test_eviction_is_asked_for_once_in_an_interval_and_then_deferred():
    clock = Clock()
    controller = loaded(clock=clock)
    floor = controller.compute_stability_state(10, 100).minimum_stable_blocks
    first = controller.decide(10, 100, 20)
    assert (first.admit, first.evict_blocks) == (True, floor + 20 - 10)
    clock.now_s += 0.06
    second = controller.decide(10, 100, 20)
    assert (second.admit, second.evict_blocks, second.defer) == (False, 0, True)
    assert second.retry_after_ms == pytest.approx(40.0)
    assert second.reason is DecisionReason.EVICTED_A_MOMENT_AGO
    assert controller.get_eviction_target_blocks(10, 100, 20) == 0
    clock.now_s += 0.041
    assert controller.get_eviction_target_blocks(10, 100, 20) == floor + 10


def test_a_request_that_fits_is_admitted_within_the_interval():
    controller = loaded()
    controller.decide(10, 100, 20)
    assert controller.decide(80, 100, 20).reason is DecisionReason.FITS


def test_a_request_beyond_the_memory_evicts_nobody():
    decision = loaded().decide(10, 100, 200)
    assert (decision.admit, decision.feasible, decision.evict_blocks) == (False, False, 0)
    assert decision.reason is DecisionReason.EXCEEDS_MEMORY


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.floats(0, 500), st.integers(0, 5000)),
        st.tuples(st.just("finish"), st.floats(0, 60_000), st.integers(0, 300)),
        st.tuples(st.just("wait"), st.floats(0, 0.3), st.just(0)),
        st.tuples(st.just("ask"), st.floats(0, 1), st.integers(0, 700)),
    ),
    max_size=80,
)


@settings(max_examples=300)
@given(events=EVENTS, total=st.integers(1, 600), completions=st.integers(0, 30), rate_rps=st.floats(0.1, 50))
def test_invariant_11_no_admission_leaves_less_than_the_floor(events, total, completions, rate_rps):
    """Whatever the history: the floor holds after every admission, and evictions keep their distance."""
    clock = Clock()
    controller = QueueingController(clock=clock)
    for i in range(completions):
        controller.record_request_arrival(i / rate_rps, 500, "a")
        controller.record_request_completion(i / rate_rps, 200.0, 20, "a")
    evicted_at = []
    for kind, number, whole in events:
        if kind == "arrive":
            controller.record_request_arrival(number, whole, "a")
        elif kind == "finish":
            controller.record_request_completion(clock.now_s, number, whole, "b")
        elif kind == "wait":
            clock.now_s += number
        else:
            free = int(number * total)
            floor = controller.compute_stability_state(free, total).minimum_stable_blocks
            decision = controller.decide(free, total, whole)
            assert 0 <= decision.floor_blocks == floor <= total
            assert 0 <= decision.evict_blocks <= total - free
            if decision.admit:
                assert free + decision.evict_blocks - whole >= floor
            else:
                assert decision.evict_blocks == 0
                assert decision.defer != (not decision.feasible)
                assert (decision.retry_after_ms > 0.0) == decision.defer
            if decision.evict_blocks:
                evicted_at.append(clock.now_s)
    interval_s = controller.config.min_eviction_interval_ms / 1000.0
    assert all(b - a >= interval_s - 1e-12 for a, b in itertools.pairwise(evicted_at))


def test_bits_follow_the_load_and_do_not_flap():
    bits = {
        rho: loaded(rate_rps=10.0, service_ms=100.0 * rho).get_recommended_quantization_bits()
        for rho in (0.5, 0.69, 0.71, 0.84, 0.86, 0.94, 0.96, 3.0)
    }
    assert list(bits.values()) == [16, 16, 8, 8, 4, 4, 2, 2]

    controller = loaded(rate_rps=10.0, service_ms=71.0)
    rng, seen = random.Random(1), [controller.get_recommended_quantization_bits()]
    for i in range(2000):
        at = 10.0 + 0.1 * i
        controller.record_request_arrival(at, 160, "a")
        controller.record_request_completion(at, 70.0 + rng.uniform(-20.0, 20.0), 10, "a")
        seen.append(controller.get_recommended_quantization_bits())
    assert seen[0] == 8
    assert sum(a != b for a, b in itertools.pairwise(seen)) == 0


def test_metrics_show_the_last_real_state():
    controller = loaded()
    assert all(math.isnan(v) for v in controller.export_metrics().values())
    state = controller.compute_stability_state(60, 100)
    assert controller.export_metrics() == {
        "queueing_lambda": state.arrival_rate_lambda,
        "queueing_mu": state.service_rate_mu,
        "queueing_rho": state.utilization_rho,
        "queueing_is_stable": 1.0,
        "queueing_lambda_critical": state.lambda_critical,
        "queueing_minimum_stable_blocks": state.minimum_stable_blocks,
        "queueing_stability_margin_pct": state.stability_margin_pct,
    }


def test_the_controller_says_how_sure_it_is():
    controller = loaded(count=50)
    assert controller.arrival_rate().enough
    assert controller.arrival_rate().stderr > 0.0
    assert controller.service_time().value == pytest.approx(0.1)
    assert controller.blocks_per_request().samples > 10


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("window_seconds", 0.0),
        ("window_seconds", math.nan),
        ("safety_margin", 0.9),
        ("safety_margin", math.inf),
        ("block_size", 0),
        ("head_dim", 1.5),
        ("num_kv_heads", -1),
        ("num_layers", True),
        ("concurrency", 0),
        ("bytes_per_element", 0.0),
        ("min_eviction_interval_ms", -1.0),
    ],
)
def test_every_field_of_the_configuration_is_checked(field, bad):
    with pytest.raises(ValueError, match=field):
        QueueingConfig(**{field: bad})


def test_the_shape_of_the_model_gives_bytes_blocks_and_tokens():
    config = QueueingConfig(block_size=16, head_dim=128, num_kv_heads=8, num_layers=32, bytes_per_element=2.0)
    assert config.bytes_per_block == 2 * 32 * 8 * 128 * 16 * 2
    assert config.bytes_in_blocks(10) == 10 * config.bytes_per_block
    assert config.blocks_in_bytes(10.5 * config.bytes_per_block) == 10
    assert config.tokens_in_blocks(10) == 160
    assert [config.blocks_for_tokens(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="memory_bytes"):
        config.blocks_in_bytes(-1.0)
    with pytest.raises(ValueError, match="tokens"):
        config.blocks_for_tokens(-1)
