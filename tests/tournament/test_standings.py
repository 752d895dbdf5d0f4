"""Standings from scores written by hand: ratios, intervals, lost cells, the best in hindsight."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import stdev

import pytest

from bidkv.tournament import BASELINE, Score, Standings, TournamentCell, TournamentPlan, tables

EVEN = Score(10.0, 40.0, 3.0, 5.0, 8.0, 2.0, 0.1, 0.5, 3, 20, 0)
T_95 = {1: 12.7062047, 2: 4.3026527}
"""Student's t, two-sided 95 %, by degrees of freedom (any table)."""


def standings(means: dict[str, dict[tuple[str, int], float]]) -> Standings:
    """Every policy's mean latency by (family, seed); all other figures are the baseline's."""
    families = sorted({family for by_cell in means.values() for family, _ in by_cell})
    seeds = sorted({seed for by_cell in means.values() for _, seed in by_cell})
    plan = TournamentPlan.make(list(means), families=families, sizes=["T"], loads=[1.0], seeds=seeds)
    scores = {
        TournamentCell("T", family, 1.0, seed): {
            BASELINE: EVEN,
            **{policy: replace(EVEN, mean_e2e_s=by_cell[family, seed]) for policy, by_cell in means.items()},
        }
        for family in families
        for seed in seeds
    }
    return Standings(plan, scores)


def test_ratios_are_averaged_as_logarithms_and_the_interval_is_students_over_seeds() -> None:
    table = standings({"lcf": {("code", 1): 5.0, ("mixed", 1): 20.0, ("code", 2): 8.0, ("mixed", 2): 8.0}})
    # Seed 1: halved and doubled, so 1. Seed 2: 0.8 twice.
    logs = [0.0, math.log(0.8)]
    centre, half = sum(logs) / 2, T_95[1] * stdev(logs) / math.sqrt(2)
    ratio = table.ratio("lcf", "mean_e2e_s", size="T")
    assert ratio.value == pytest.approx(math.exp(centre))
    assert ratio.low == pytest.approx(math.exp(centre - half))
    assert ratio.high == pytest.approx(math.exp(centre + half))
    assert table.ratio("lcf", "mean_e2e_s", family="code", load=1.0).value == pytest.approx(math.sqrt(0.4))
    assert table.ratio("lcf", "throughput_rps").value == 1.0
    assert table.level("lcf", "recompute_tax").value == pytest.approx(0.1)


def test_one_seed_gives_no_interval_and_loses_nowhere() -> None:
    table = standings({"lcf": {("code", 1): 30.0}})
    ratio = table.ratio("lcf", "mean_e2e_s")
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(3.0), None, None)
    assert table.losses("lcf") == []
    assert "3.000" in str(table)


def test_a_cell_is_lost_when_its_whole_interval_is_above_the_line() -> None:
    clear = {("code", seed): 10.2 + 0.001 * seed for seed in (1, 2, 3)}
    doubtful = {("mixed", 1): 9.0, ("mixed", 2): 13.0, ("mixed", 3): 11.0}
    slight = {("arxiv", seed): 10.05 + 0.001 * seed for seed in (1, 2, 3)}
    table = standings({"lcf": {**clear, **doubtful, **slight}})
    (loss,) = table.losses("lcf")
    assert loss[:5] == ("lcf", "T", "code", 1.0, "mean_e2e_s")
    assert loss.ratio.low is not None
    assert loss.ratio.low > 1.01
    assert table.losses(BASELINE) == []
    (row,) = tables.loss_rows(table, ["lcf"])
    assert row[:5] == ["lcf", "T", "code", "1", "mean"]
    (cells_lost,) = [row[-1] for row in tables.size_rows(table, "T") if row[0] == "lcf"]
    assert cells_lost == "1"


def test_the_best_rival_is_chosen_place_by_place() -> None:
    seeds = (1, 2)
    table = standings(
        {
            "fair": {("code", s): 6.0 for s in seeds} | {("mixed", s): 9.0 for s in seeds},
            "watermark:f=0.01": {("code", s): 5.0 for s in seeds} | {("mixed", s): 20.0 for s in seeds},
            "watermark:f=0.1": {("code", s): 9.0 for s in seeds} | {("mixed", s): 9.0 for s in seeds},
        }
    )
    rivals = ["watermark:f=0.01", "watermark:f=0.1"]
    assert table.against_best("fair", rivals, "mean_e2e_s").value == pytest.approx(math.sqrt(6 / 5))
    rows = tables.hindsight_rows(table)
    assert [row[0] for row in rows] == [BASELINE, "fair"]
    assert rows[1][2].startswith("1.095")
    # In "code" 6.0 against 5.0, in "mixed" the same as the best: one of two is within 1 %.
    assert table.near_best("fair", rivals, "mean_e2e_s") == (1, 2)
    assert rows[1][4:] == ["1 of 2", "2 of 2"]


def test_a_cell_is_lost_by_any_figure_of_latency_or_wait() -> None:
    table = standings({"lcf": {("code", seed): 10.0 for seed in (1, 2, 3)}})
    for name, shown in (
        ("mean_ttft_s", "TTFT mean"),
        ("p99_ttft_s", "TTFT p99"),
        ("longest_wait_s", "longest wait"),
    ):
        slow = replace(EVEN, **{name: 1.05 * getattr(EVEN, name)})
        scores = {cell: {**by_policy, "lcf": slow} for cell, by_policy in table.scores.items()}
        ((*_, figure, ratio),) = tables.loss_rows(Standings(table.plan, scores), ["lcf"])
        assert (figure, ratio) == (shown, "1.050 [1.050, 1.050]")


def test_policies_that_broke_are_named() -> None:
    table = standings({"lcf": {("code", 1): 10.0}})
    cell = TournamentCell("T", "code", 1.0, 1)
    broken = Standings(table.plan, {cell: {**table.scores[cell], "lcf": replace(EVEN, failures=1)}})
    assert broken.broken() == {"lcf": 1}
    assert "lcf failed in 1 runs" in str(broken)
    assert table.broken() == {}
