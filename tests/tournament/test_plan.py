"""What a tournament refuses before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from bidkv.policy import available, resolve
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.tournament import BASELINE, SIZES, TournamentPlan, all_policies
from bidkv.workloads.families import FAMILY_GROUPS, split_seeds


def test_the_baseline_plays_first_and_once() -> None:
    assert TournamentPlan.make(["lcf"]).policies == (BASELINE, "lcf")
    assert TournamentPlan.make(["lcf", BASELINE]).policies == (BASELINE, "lcf")


def test_what_is_left_open_is_everything_and_four_seeds() -> None:
    plan = TournamentPlan.make(["lcf"], split="held_out")
    assert plan.sizes == ("M", "server")
    assert SIZES["server"].num_gpu_blocks == load_profile(DEFAULT_PROFILE).num_gpu_blocks
    assert {SIZES[size].max_num_seqs for size in plan.sizes} == {256}
    assert len(plan.families) == 24
    assert plan.seeds == split_seeds("held_out")[:4]
    assert len(plan.groups()) == 24 * 2 * 4
    assert plan.groups()[0].size == "M"  # the longest first


def test_a_group_stands_for_its_families() -> None:
    plan = TournamentPlan.make(["lcf"], families=["outside-chat", "mixed"])
    assert plan.families == (*FAMILY_GROUPS["outside-chat"], "mixed")
    with pytest.raises(ValueError, match="a family is named twice"):
        TournamentPlan.make(["lcf"], families=["ordinary", "mixed"])


def test_everybody_is_every_policy_and_all_of_them_resolve() -> None:
    assert set(available()) < set(all_policies())
    assert len({resolve(spec).name for spec in all_policies()}) == len(available())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policies": ["nobody"]}, "policy 'nobody' does not exist"),
        (
            {"families": ["nothing"]},
            "family 'nothing' does not exist. Available: ordinary, outside-chat, azure-conv",
        ),
        ({"sizes": ["XL"]}, "size 'XL' does not exist. Available: T, 1500, 4096, M"),
        ({"loads": []}, "expected at least one load"),
        ({"loads": [1.0, 1.0]}, "a load is named twice"),
        ({"loads": [-0.5]}, "a load must be a positive number, got -0.5"),
        ({"loads": [float("nan")]}, "a load must be a positive number"),
        ({"seeds": []}, "expected at least one seed"),
        ({"requests": 0}, "requests must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TournamentPlan.make(**{"policies": ["lcf"], **wrong})
