"""Synthetic workloads: what was asked for, bounded, and the same for the same seed."""

import itertools
import math
from random import Random

import pytest

from bidkv.workloads import available_workloads, generate
from bidkv.workloads.generators.laws import Lognormal, Quantiles

NAMES = available_workloads()


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_everything(name):
    once, again, other = (list(generate(name, n=200, rate_rps=2.0, seed=s)) for s in (5, 5, 6))
    assert once == again
    assert once != other


@pytest.mark.parametrize("name", NAMES)
def test_requests_are_well_formed_and_arrive_in_order_at_the_rate(name):
    requests = list(generate(name, n=20_000, rate_rps=4.0, seed=0, cv=1.0))
    assert [r.request_id for r in requests] == [f"r{i}" for i in range(20_000)]
    assert requests[0].arrival_s == 0.0
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(requests))
    assert all(r.prompt_tokens >= 1 and r.output_tokens >= 1 for r in requests)
    assert 19_999 / requests[-1].arrival_s == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "multi_turn"])
def test_another_rate_keeps_the_requests_and_the_pattern(name):
    slow, fast = (list(generate(name, n=100, rate_rps=rate, seed=2)) for rate in (1.0, 10.0))
    assert [(r.prompt_tokens, r.output_tokens) for r in slow] == [
        (r.prompt_tokens, r.output_tokens) for r in fast
    ]
    assert [r.arrival_s for r in slow] == pytest.approx([10 * r.arrival_s for r in fast], abs=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "uniform"])
@pytest.mark.parametrize("bound", [256, 4096])
def test_no_request_exceeds_the_bound(name, bound):
    small = {"system_tokens": 100} if name == "multi_turn" else {}
    requests = list(generate(name, n=3000, rate_rps=1.0, seed=1, max_total_tokens=bound, **small))
    assert max(r.prompt_tokens + r.output_tokens for r in requests) <= bound


def test_mixed_fits_small_caches_by_default():
    assert (
        max(r.prompt_tokens + r.output_tokens for r in generate("mixed", n=20_000, rate_rps=1.0, seed=3))
        <= 4096
    )


def test_uniform_laws_have_their_bounds_and_means():
    bounds = {"prompt_low": 10, "prompt_high": 30, "output_low": 5, "output_high": 6}
    requests = list(generate("uniform", n=20_000, rate_rps=1.0, seed=0, **bounds))
    prompts, outputs = {r.prompt_tokens for r in requests}, {r.output_tokens for r in requests}
    assert prompts == set(range(10, 31))
    assert outputs == {5, 6}
    assert sum(r.prompt_tokens for r in requests) / 20_000 == pytest.approx(20.0, rel=0.01)


def test_bursty_is_mixed_with_variable_gaps():
    requests = list(generate("bursty", n=20_000, rate_rps=1.0, seed=0))
    gaps = [b.arrival_s - a.arrival_s for a, b in itertools.pairwise(requests)]
    mean = sum(gaps) / len(gaps)
    assert math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps)) / mean == pytest.approx(3.0, rel=0.1)
    mixed = generate("mixed", n=20_000, rate_rps=1.0, seed=0)
    assert [r.prompt_tokens for r in requests] == [r.prompt_tokens for r in mixed]


def test_an_infinite_rate_lets_all_arrive_at_once():
    assert {r.arrival_s for r in generate("mixed", n=50, rate_rps=math.inf, seed=0)} == {0.0}


def test_conversations_grow_by_what_was_said_and_share_exactly_their_common_chunks():
    requests = list(
        generate("multi_turn", n=2000, rate_rps=2.0, seed=4, system_tokens=1100, system_prompts=2)
    )
    seen: dict[int, tuple[int, ...]] = {}
    continued = 0
    for r in requests:
        assert len(r.hash_ids) == math.ceil(r.prompt_tokens / 512)
        for place, chunk in enumerate(r.hash_ids):
            # A chunk's id stands for everything up to it: the ids before it can never differ.
            assert seen.setdefault(chunk, r.hash_ids[: place + 1]) == r.hash_ids[: place + 1]
        continued += r.prompt_tokens >= 1100 + 4 + 4 + 4
    assert {r.hash_ids[:2] for r in requests} == {(0, 1), (2, 3)}
    assert {r.agent_id for r in requests} == {"app-0", "app-1"}
    assert continued > 1000


def test_conversations_have_the_stated_turns_when_there_is_room():
    # Messages of about 2,000 tokens make the fourth chunk of every prompt its conversation's own.
    big = {"user_median": 2000.0, "user_sigma": 0.01, "max_total_tokens": 10**6}
    requests = generate(
        "multi_turn", n=20_000, rate_rps=10.0, seed=0, mean_turns=5.0, mean_think_s=0.1, **big
    )
    conversations = {r.hash_ids[3] for r in requests}
    assert 20_000 / len(conversations) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("mix", {}, "there are: bursty, code_completion"),
        ("mixed", {"shape": 1.0}, "has no parameter 'shape'; it has: cv, chat_share"),
        ("mixed", {"chat_share": 1.5}, "chat_share must be from 0 to 1"),
        ("mixed", {"chat_share": math.nan}, "chat_share must be from 0 to 1"),
        ("mixed", {"chat_prompt_sigma": 0.0}, "sigma"),
        ("mixed", {"max_total_tokens": 4096.5}, "max_total_tokens must be a whole number"),
        ("mixed", {"cv": 0.0}, "cv must be"),
        ("mixed", {"n": 0}, "n must be at least 1"),
        ("mixed", {"rate_rps": 0.0}, "rate_rps must be"),
        ("uniform", {"prompt_low": 0}, "prompt_low must be a whole number from 1"),
        ("uniform", {"output_low": 9, "output_high": 8}, "output_high must be a whole number from 9"),
        ("multi_turn", {"mean_turns": 0.5}, "mean_turns"),
        ("multi_turn", {"system_tokens": 5000}, "system_tokens must be a whole number from 1 to 4096"),
        ("long_context", {"max_total_tokens": 10}, "max_total_tokens must be"),
    ],
)
def test_mistakes_are_named_at_the_call(name, arguments, part):
    with pytest.raises(ValueError, match=part):
        generate(name, **{"n": 10, "rate_rps": 1.0, "seed": 0} | arguments)


def test_lognormal_draws_have_the_conditioned_median():
    random = Random(0)
    free = sorted(Lognormal(median=200, sigma=1.0).draw(random, 10**8) for _ in range(20_001))
    bounded = sorted(Lognormal(median=200, sigma=1.0).draw(random, 200) for _ in range(20_001))
    assert free[10_000] == pytest.approx(200, rel=0.05)
    # Half of the mass lies below 200, so its median is the law's first quartile: 200 * exp(-0.6745).
    assert bounded[10_000] == pytest.approx(102, rel=0.05)
    assert bounded[-1] == 200


def test_lognormal_far_from_its_bounds_stays_within_them():
    law = Lognormal(median=10**6, sigma=0.01, low=8)
    assert law.draw(Random(0), 100) in range(8, 101)
    assert law.draw(Random(0), 5) == 8


def test_quantiles_interpolate():
    random = Random(0)
    draws = sorted(Quantiles((10, 20, 100)).draw(random) for _ in range(20_001))
    assert (draws[0], draws[-1]) == (10, 100)
    assert draws[10_000] == pytest.approx(20, abs=1)
    assert draws[15_000] == pytest.approx(60, abs=3)
