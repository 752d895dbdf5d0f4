import random

import pytest

from bidkv.evaluation.saturation import poisson_requests
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import ReplicaModel, ReplicaShape, UniformLaw, service_rate

EVEN = UniformLaw((10, 1600), (10, 1600))
PROFILE = load_profile("h100-llama3.1-8b")


def steps(shape):
    return PROFILE.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s


@pytest.mark.parametrize("utilization", [0.4, 0.7])
@pytest.mark.parametrize(("blocks", "seqs"), [(600, 32), (4096, 128)])
def test_use_and_pace_below_saturation_are_those_of_the_simulator(utilization, blocks, seqs):
    shape = ReplicaShape(blocks, max_num_seqs=seqs)
    rate = utilization * service_rate(EVEN, shape, steps(shape)).sustainable_rps
    point = ReplicaModel(EVEN, shape, steps(shape)).at(rate)
    rng = random.Random(3)
    pairs = [(rng.randint(10, 1600), rng.randint(10, 1600)) for _ in range(2500)]
    engine = EngineConfig(num_gpu_blocks=blocks + 1, max_num_seqs=seqs)
    summary = simulate(poisson_requests(pairs, rate, 2), resolve("preempt-evict"), engine, PROFILE).summary()
    assert point.memory_fill == pytest.approx(summary["kv_utilization_mean"], rel=0.08)
    assert point.tpot_s == pytest.approx(summary["tpot_s"]["mean"], rel=0.12)
    assert point.ttft_s == pytest.approx(summary["ttft_s"]["mean"], rel=0.35)


def test_there_is_no_steady_state_at_saturation():
    shape = ReplicaShape(2048)
    mu = service_rate(EVEN, shape, steps(shape)).sustainable_rps
    assert ReplicaModel(EVEN, shape, steps(shape)).at(mu) is None
    assert ReplicaModel(EVEN, shape, steps(shape)).at(0.99 * mu) is not None


def test_everything_grows_with_the_load():
    shape = ReplicaShape(2048)
    mu = service_rate(EVEN, shape, steps(shape)).sustainable_rps
    points = [ReplicaModel(EVEN, shape, steps(shape)).at(share * mu) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for name in ("running", "memory_fill", "tpot_s", "ttft_s", "ttft_p99_s"):
        values = [getattr(point, name) for point in points]
        assert values == sorted(values), name


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_rates_are_refused(bad):
    with pytest.raises(ValueError, match="arrivals_rps"):
        ReplicaModel(EVEN, ReplicaShape(2048), steps(ReplicaShape(2048))).at(bad)


def test_promises_bound_the_rate():
    shape = ReplicaShape(2048)
    model = ReplicaModel(EVEN, shape, steps(shape))
    assert model.largest_rate_where(lambda state: True) == pytest.approx(model.sustainable_rps, rel=1e-3)
    halfway = model.at(0.5 * model.sustainable_rps)
    found = model.largest_rate_where(lambda state: state.tpot_s <= halfway.tpot_s)
    assert found == pytest.approx(0.5 * model.sustainable_rps, rel=0.01)
    busy = model.at(0.9 * model.sustainable_rps)
    found = model.largest_rate_where(lambda state: state.ttft_p99_s <= busy.ttft_p99_s)
    assert found == pytest.approx(0.9 * model.sustainable_rps, rel=0.01)
    assert model.largest_rate_where(lambda state: state.tpot_s <= 1e-4) == 0.0
    with pytest.raises(ValueError, match="cached_prompt_share"):
        ReplicaModel(EVEN, shape, steps(shape), cached_prompt_share=1.0)
