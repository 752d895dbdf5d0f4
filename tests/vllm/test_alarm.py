"""The alarm on vLLM's real scheduler, its adapter and its metrics, with simulated seconds.

One load in the suite; with `--campaign` three laws, two memory sizes and all loads (`tests/vllm/alarm.py`).
"""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

from tests.stability.loads import EVERY_S, SETTLED_S, STABLE_LOADS, UNSTABLE_LOADS
from tests.vllm.alarm import LAWS, LOADS, SHAPES, sustainable_rate, watch

SUSTAINABLE_RPS = 9.524
"""What `sustainable_rate("mixed", SHAPES[0])` measures here, and in the simulator of the same engine."""


@pytest.mark.timeout(900)
def test_the_alarm_of_a_live_scheduler_is_right(campaign, note_figures):
    cells = [("mixed", SHAPES[0], SUSTAINABLE_RPS)]
    if campaign:
        cells = [(law, shape, sustainable_rate(law, shape)) for law in LAWS for shape in SHAPES]
    for load in LOADS if campaign else (0.9,):
        settled = [
            value
            for law, shape, rate in cells
            for value in watch(law, shape, load, rate)[int(SETTLED_S / EVERY_S) :]
        ]
        stable = sum(value == 1 for value in settled) / len(settled)
        note_figures(
            f"at {load:.0%} of the sustainable rate {stable:.1%} of {len(settled):,} samples say stable"
        )
        if load in STABLE_LOADS:
            assert stable >= 0.99, load
        if load in UNSTABLE_LOADS:
            assert stable <= 0.05, load
