"""The pairs of runs on H100s stand in docs/results/single-requests.md as recorded, with true conclusions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.evaluation.figures import E2E_MEAN
from bidkv.gpu_host.pairs import BASELINE, JUDGED, PairedRuns, read_pairs, table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/h100/pairs"
NAMES = ("mixed-600", "bursty-cv2-600", "sharegpt-8192", "azure-conv-8192")
PAGE = (ROOT / "docs/results/single-requests.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def kept() -> list[PairedRuns]:
    return [cell for name in NAMES for cell in read_pairs(KEPT / name)]


def test_the_table_is_what_the_command_prints(kept: list[PairedRuns]) -> None:
    shown = PAGE.split("<!-- h100-pairs: begin -->")[1].split("<!-- h100-pairs: end -->")[0].strip()
    assert shown == table(kept)
    assert len(kept) == 4


def test_fair_is_better_in_every_figure_of_every_workload(kept: list[PairedRuns]) -> None:
    for cell in kept:
        for figure in JUDGED:
            effect = cell.effect("fair", figure)
            assert effect.is_shown, (cell.name, figure.label)
            assert (effect.estimate < 0) == (figure.better == "lower"), (cell.name, figure.label)
        assert cell.effect("fast", E2E_MEAN).high < cell.effect("fair", E2E_MEAN).low


def test_the_policies_were_in_charge_and_every_request_was_served(kept: list[PairedRuns]) -> None:
    for cell in kept:
        assert (
            sorted(cell.runs["fair"])
            == sorted(cell.runs["fast"])
            == sorted(cell.runs[BASELINE])
            == [1, 2, 3, 4]
        )
        for runs in cell.runs.values():
            for run in runs.values():
                assert run.notes["active"]
                assert run.notes["control"]["failures"] == 0
                assert len(run.completed) == len(run.records) == run.notes["control"]["arrivals"]
