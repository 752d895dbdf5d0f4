"""Traffic beside ordinary chat has the shapes it is named for, at any rate and for every seed."""

from __future__ import annotations

import math
from statistics import fmean

import pytest

from bidkv.workloads.families import FAMILIES, FAMILY_GROUPS

SEEDS = (1, 2, 3, 1001)


def test_every_family_is_in_one_group() -> None:
    grouped = [name for group in FAMILY_GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(FAMILIES)


@pytest.mark.parametrize("name", FAMILY_GROUPS["outside-chat"])
def test_at_an_infinite_rate_all_are_queued_at_the_start(name: str) -> None:
    queued, spread = FAMILIES[name](200, math.inf, 1), FAMILIES[name](200, 2.0, 1)
    assert {r.arrival_s for r in queued} == {0.0}
    assert [(r.prompt_tokens, r.output_tokens, r.hash_ids) for r in queued] == [
        (r.prompt_tokens, r.output_tokens, r.hash_ids) for r in spread
    ]


@pytest.mark.parametrize("name", FAMILY_GROUPS["outside-chat"])
def test_the_mean_rate_is_the_one_asked_for(name: str) -> None:
    rates = [1999 / FAMILIES[name](2000, 4.0, seed)[-1].arrival_s for seed in SEEDS]
    assert fmean(rates) == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("seed", SEEDS)
def test_long_generations_are_long(seed: int) -> None:
    requests = FAMILIES["long-generation"](300, 1.0, seed)
    assert fmean(r.output_tokens for r in requests) > 2 * fmean(r.prompt_tokens for r in requests)
    assert min(r.output_tokens for r in requests) >= 700


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_think_and_their_prompts_do_not_tell(seed: int) -> None:
    requests = FAMILIES["bimodal-thinking"](2000, 1.0, seed)
    thinking = [r for r in requests if r.output_tokens > 2000]
    assert 0.01 < len(thinking) / len(requests) < 0.15
    assert not [r for r in requests if 600 < r.output_tokens < 2000]
    assert fmean(r.prompt_tokens for r in thinking) == pytest.approx(150, rel=0.15)


@pytest.mark.parametrize("seed", SEEDS)
def test_opposite_classes_have_long_prompts_or_long_answers(seed: int) -> None:
    requests = FAMILIES["opposite-classes"](500, 1.0, seed)
    long_prompts = [r for r in requests if r.prompt_tokens > 1000]
    assert 0.2 < len(long_prompts) / 500 < 0.8
    assert max(r.output_tokens for r in long_prompts) <= 60
    assert min(r.output_tokens for r in requests if r.prompt_tokens <= 150) >= 600


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_of_one_prompt_share_its_chunks(seed: int) -> None:
    requests = FAMILIES["group-rollouts"](320, 1.0, seed)
    groups: dict[tuple[int, ...], list[int]] = {}
    for request in requests:
        groups.setdefault(request.hash_ids, []).append(request.prompt_tokens)
    assert {len(group) for group in groups.values()} in ({4}, {8}, {16})
    assert all(len(set(group)) == 1 for group in groups.values())
    assert len({i for ids in groups for i in ids}) == sum(map(len, groups))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_client_sends_alike_requests_at_one_moment(seed: int) -> None:
    requests = FAMILIES["client-bursts"](2000, 4.0, seed)
    at: dict[float, int] = {}
    for request in requests:
        at[request.arrival_s] = at.get(request.arrival_s, 0) + 1
    assert max(at.values()) >= 20
    assert 0.2 < sum(count for count in at.values() if count > 5) / 2000 < 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_lengths_drift_in_opposite_directions(seed: int) -> None:
    requests = FAMILIES["drifting"](2000, 1.0, seed)
    first, last = requests[:200], requests[-200:]
    outputs = fmean(r.output_tokens for r in last) / fmean(r.output_tokens for r in first)
    prompts = fmean(r.prompt_tokens for r in last) / fmean(r.prompt_tokens for r in first)
    assert max(outputs, 1 / outputs) > 4
    assert (outputs > 1) == (prompts < 1)


def test_laws_switch_four_times_and_documents_are_asked_about_more_than_once() -> None:
    stretches = FAMILIES["switching"](2000, 1.0, 1)
    means = [fmean(r.output_tokens for r in stretches[k : k + 500]) for k in range(0, 2000, 500)]
    assert max(means) > 10 * min(means)
    asked = [r.hash_ids for seed in SEEDS for r in FAMILIES["documents"](500, 1.0, seed) if r.hash_ids]
    assert len(set(asked)) < len(asked)
