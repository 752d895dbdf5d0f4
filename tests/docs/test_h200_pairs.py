"""The pairs of runs on H200s stand in docs/results/single-requests.md as recorded, with true conclusions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.evaluation.figures import E2E_MEAN, E2E_P99
from bidkv.gpu_host.pairs import BASELINE, JUDGED, PairedRuns, read_pairs, table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/h200/pairs"
PAGE = (ROOT / "docs/results/single-requests.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def kept() -> list[PairedRuns]:
    return [cell for name in ("600-blocks", "8192-blocks") for cell in read_pairs(KEPT / name)]


def test_the_table_is_what_the_command_prints(kept: list[PairedRuns]) -> None:
    shown = PAGE.split("<!-- h200-pairs: begin -->")[1].split("<!-- h200-pairs: end -->")[0].strip()
    assert shown == table(kept)
    assert len(kept) == 6


def test_fair_has_the_lower_mean_everywhere_and_is_worse_in_nothing(kept: list[PairedRuns]) -> None:
    for cell in kept:
        assert cell.effect("fair", E2E_MEAN).high < 0, cell.name
        for figure in JUDGED:
            effect = cell.effect("fair", figure)
            assert not effect.is_shown or (effect.estimate < 0) == (figure.better == "lower"), cell.name


def test_fast_has_a_lower_mean_in_five_and_no_worse_p99(kept: list[PairedRuns]) -> None:
    assert [cell.name for cell in kept if not cell.effect("fast", E2E_MEAN).high < 0] == [
        "long-generation all queued, 4,096 blocks"
    ]
    lower = [cell.effect("fast", E2E_MEAN).estimate < cell.effect("fair", E2E_MEAN).estimate for cell in kept]
    assert lower.count(True) == 5
    for cell in kept:
        effect = cell.effect("fast", E2E_P99)
        assert effect.estimate < 0 or not effect.is_shown, cell.name


def test_the_policies_were_in_charge_and_every_request_was_served(kept: list[PairedRuns]) -> None:
    for cell in kept:
        ran = {policy: sorted(runs) for policy, runs in cell.runs.items()}
        assert ran["fair"] == ran[BASELINE] == list(range(1, len(ran["fair"]) + 1))
        assert len(ran["fair"]) == len(ran["fast"]) + 4 >= 8
        assert ran["fast"] == ran["fair"][: len(ran["fast"])]
        for runs in cell.runs.values():
            for run in runs.values():
                assert run.notes["active"]
                assert run.notes["control"]["failures"] == 0
                assert len(run.completed) == len(run.records) == run.notes["control"]["arrivals"]
