"""Workload families: pinned, split without overlap, and within the cache they promise to fit."""

import itertools
import math

import pytest

from bidkv.workloads.families import (
    FAMILIES,
    MAX_TOTAL_TOKENS,
    fingerprint,
    is_held_out,
    read_pins,
    split_seeds,
)
from bidkv.workloads.traces import read_trace

NAMES = list(FAMILIES)


def test_there_are_enough_families_and_seeds_for_a_tournament():
    assert len(FAMILIES) >= 24
    tuning, held_out = split_seeds("tuning"), split_seeds("held_out")
    assert len(tuning) >= 5
    assert len(held_out) >= 10
    assert not any(map(is_held_out, tuning))
    assert all(map(is_held_out, held_out))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_still_makes_what_is_pinned(name):
    seeds = split_seeds("tuning") + split_seeds("held_out")
    requests = [r for seed in seeds for r in FAMILIES[name](100, 1.0, seed)]
    assert fingerprint(requests) == read_pins()["fingerprints"][name]


def test_no_two_families_make_the_same_requests():
    assert len(set(read_pins()["fingerprints"].values())) == len(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 1001])
def test_requests_are_well_formed(name, seed):
    requests = FAMILIES[name](1500, 3.0, seed)
    assert requests == FAMILIES[name](1500, 3.0, seed)
    assert [r.request_id for r in requests] == [f"r{i}" for i in range(1500)]
    assert requests[0].arrival_s == 0.0
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(requests))
    assert all(r.prompt_tokens >= 1 and r.output_tokens >= 1 for r in requests)
    assert max(r.prompt_tokens + r.output_tokens for r in requests) <= MAX_TOTAL_TOKENS
    assert all(len(r.hash_ids) in (0, math.ceil(r.prompt_tokens / 512)) for r in requests)


@pytest.mark.parametrize("name", ["azure-conv", "mooncake-conv"])
def test_replays_keep_the_stated_rate_exactly_and_go_round(name):
    requests = FAMILIES[name](3000, 2.5, 1)
    assert 2999 / requests[-1].arrival_s == pytest.approx(2.5)
    lengths = [(r.prompt_tokens, r.output_tokens) for r in requests]
    lap = next(k for k in range(100, 3000) if lengths[k : k + 50] == lengths[:50])
    assert lengths[lap:] == lengths[: 3000 - lap]


def test_a_replay_that_goes_round_shares_no_prefix_with_its_last_lap():
    requests = FAMILIES["mooncake-conv"](1200, 1.0, 1)
    lengths = [(r.prompt_tokens, r.output_tokens) for r in requests]
    lap = next(k for k in range(100, 1200) if lengths[k : k + 50] == lengths[:50])
    assert requests[0].hash_ids != requests[lap].hash_ids
    assert not set(requests[0].hash_ids) & set(requests[lap].hash_ids)


@pytest.mark.parametrize(
    ("family", "trace"),
    [
        ("azure-conv", "azure-conv"),
        ("azure-conv-bursty", "azure-conv"),
        ("mooncake-conv", "mooncake-conv"),
        ("sharegpt", "sharegpt-lengths"),
        ("arxiv", "arxiv-lengths"),
    ],
)
def test_tuning_and_judging_see_different_rows_of_the_data(family, trace):
    rows = [(r.prompt_tokens, r.output_tokens) for r in read_trace(trace, rate_rps=1.0)]
    middle = len(rows) // 2
    for seed, half in ((1, rows[:middle]), (1001, rows[middle:])):
        seen = {(r.prompt_tokens, r.output_tokens) for r in FAMILIES[family](1000, 1.0, seed)}
        assert seen <= set(half)
        assert len(seen) > 300


@pytest.mark.parametrize("arguments", [(0, 1.0, 1), (10, 0.0, 1), (10, math.nan, 1), (10, 1.0, -1)])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="must be"):
        FAMILIES["mixed"](*arguments)
