import math
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidkv.evaluation.saturation import measure_saturation
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig
from bidkv.stability import (
    EmpiricalLaw,
    Limit,
    ReplicaShape,
    UniformLaw,
    service_rate,
)
from bidkv.stability.occupancy import admissible, saturated

EVEN = UniformLaw((10, 1600), (10, 1600))


def steady(prefill_tokens, prefill_attention, decode_requests, context_tokens, num_prefills=0):
    """Every step takes 10 ms."""
    return 0.01


def linear(prefill_tokens, prefill_attention, decode_requests, context_tokens, num_prefills=0):
    return 7e-3 + 2e-5 * prefill_tokens + 2.4e-5 * decode_requests + 5e-8 * context_tokens


def drawn(law, count=2500, seed=1):
    rng = random.Random(seed)
    return [(rng.randint(*law.prompt), rng.randint(*law.output)) for _ in range(count)]


@pytest.mark.parametrize(
    ("law", "blocks", "seqs"),
    [
        (EVEN, 600, 32),
        (EVEN, 2048, 128),
        (EVEN, 600, 5),
        (UniformLaw((10, 2133), (10, 1066)), 8192, 256),
        (UniformLaw((10, 1066), (10, 2133)), 2048, 128),
        (UniformLaw((10, 1500), (10, 80)), 4096, 256),
    ],
)
@pytest.mark.parametrize("name", ["h100-llama3.1-8b", "h100-llama3.1-8b-nocompile"])
def test_the_predicted_rate_is_within_7_percent_of_the_simulated_one(law, blocks, seqs, name):
    profile = load_profile(name)
    shape = ReplicaShape(blocks, max_num_seqs=seqs)
    timed = profile.for_engine(seqs, shape.max_num_batched_tokens)
    predicted = service_rate(law, shape, timed.step_s)
    measured = measure_saturation(
        drawn(law), EngineConfig(num_gpu_blocks=blocks + 1, max_num_seqs=seqs), profile
    )
    assert predicted.sustainable_rps == pytest.approx(measured.rate_rps, rel=0.07)
    summary = measured.result.summary()
    assert predicted.memory_fill == pytest.approx(summary["kv_utilization_mean"], abs=0.04)
    assert predicted.recompute_tax == pytest.approx(summary["recompute_tax"], abs=0.06)


def test_the_rate_is_the_plain_formula_where_nothing_is_left_out():
    """Equal requests, constant step time, sequences in plenty: only fullness and block ends remain."""
    law, shape = EmpiricalLaw.from_pairs([(16, 1600)]), ReplicaShape(100_000, max_num_seqs=100_000)
    rate = service_rate(law, shape, steady)
    assert rate.sustainable_rps == pytest.approx(rate.plain_rps, rel=0.03)
    assert rate.plain_rps == pytest.approx(1_600_000 / (0.01 * law.mean_memory_demand(2048)))
    assert rate.mean_step_s == pytest.approx(0.01)


def test_sequences_bind_before_memory():
    rate = service_rate(EVEN, ReplicaShape(8192, max_num_seqs=16), linear)
    assert rate.limit is Limit.SEQUENCES
    assert rate.running == pytest.approx(16.0, rel=0.01)
    assert rate.preemptions_per_request < 0.01
    assert rate.memory_elasticity < 0.01


def test_memory_binds_when_it_is_small_and_compute_when_prompts_dominate():
    assert service_rate(EVEN, ReplicaShape(600), linear).limit is Limit.MEMORY
    long = UniformLaw((8000, 12_000), (10, 50))
    assert service_rate(long, ReplicaShape(16_384), linear).limit is Limit.COMPUTE


def test_cached_prompts_save_compute_but_no_memory():
    long, shape = UniformLaw((1000, 4000), (10, 200)), ReplicaShape(8192)
    plain = service_rate(long, shape, linear)
    cached = service_rate(long, shape, linear, cached_prompt_share=0.6)
    assert cached.sustainable_rps > 1.2 * plain.sustainable_rps
    assert cached.delta == plain.delta


def test_the_theorem_and_the_interval():
    rate = service_rate(EVEN, ReplicaShape(2048), linear)
    assert rate.delta == pytest.approx(3200 / (2048 * 16), rel=0.05)
    assert rate.guaranteed_rps == pytest.approx(rate.plain_rps * (1.0 - rate.delta))
    assert rate.low_rps < rate.sustainable_rps < rate.high_rps
    few = service_rate(EmpiricalLaw.from_pairs(drawn(EVEN, 50)), ReplicaShape(2048), linear)
    assert few.high_rps / few.sustainable_rps > rate.high_rps / rate.sustainable_rps


def test_what_cannot_run_is_refused_and_outputs_end_at_the_limit():
    points, refused = admissible(EmpiricalLaw.from_pairs([(100, 10), (100, 500), (400, 10), (300, 10)]), 320)
    assert points == [(100, 10, 1 / 3), (100, 220, 1 / 3), (300, 10, 1 / 3)]
    assert refused == pytest.approx(0.25)
    with pytest.raises(ValueError, match="no request of this law fits into 320 tokens"):
        admissible(EmpiricalLaw.from_pairs([(400, 10)]), 320)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.tuples(st.integers(1, 4000), st.integers(0, 4000)),
    outputs=st.tuples(st.integers(1, 2000), st.integers(0, 2000)),
    blocks=st.integers(20, 20_000),
    seqs=st.integers(1, 512),
    budget=st.sampled_from([64, 512, 2048, 8192]),
)
def test_any_replica_has_a_consistent_steady_state(prompts, outputs, blocks, seqs, budget):
    law = UniformLaw((prompts[0], sum(prompts)), (outputs[0], sum(outputs)))
    shape = ReplicaShape(blocks, max_num_seqs=seqs, max_num_batched_tokens=budget)
    if law.prompt[0] >= shape.longest_tokens - 1:
        return
    if shape.longest_tokens - law.prompt[0] < 0.1 * (law.prompt[1] - law.prompt[0]):
        # A law is a few points here: where hardly anything of it fits, none of them may.
        with suppress(ValueError):
            service_rate(law, shape, linear)
        return
    rate = service_rate(law, shape, linear)
    assert 0.0 < rate.sustainable_rps < math.inf
    assert rate.low_rps <= rate.sustainable_rps <= rate.high_rps
    assert 0.0 <= rate.memory_fill <= 1.0
    assert 0.0 <= rate.running <= seqs
    assert 0.0 <= rate.recompute_tax < 1.0
    assert rate.mean_step_s >= linear(0, 0, 0, 0)


@given(blocks=st.integers(300, 20_000), factor=st.floats(1.2, 4.0))
@settings(max_examples=30, deadline=None)
def test_more_memory_never_runs_fewer(blocks, factor):
    points = EVEN.sample()
    small, large = (saturated(points, ReplicaShape(b)) for b in (blocks, round(factor * blocks)))
    assert large.running >= small.running
    assert large.requests_per_step >= small.requests_per_step


@pytest.mark.parametrize("field", ["num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"])
@pytest.mark.parametrize("bad", [0, 1.5, True])
def test_shapes_are_checked(field, bad):
    with pytest.raises(ValueError, match=field):
        ReplicaShape(**{"num_blocks": 10, field: bad})


def test_shares_and_limits_are_checked():
    with pytest.raises(ValueError, match="cached_prompt_share"):
        service_rate(EVEN, ReplicaShape(600), linear, cached_prompt_share=1.0)
    with pytest.raises(ValueError, match="max_model_len"):
        ReplicaShape(600, max_model_len=1)
