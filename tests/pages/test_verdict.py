"""The verdict says what the figures say, and where the winner loses."""

from __future__ import annotations

from typing import Any

import pytest

from bidkv.evaluation.figures import table_rows
from bidkv.report import judge


def summary(strategy: str, **changed: Any) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "requests": 100,
        "completed": 100,
        "throughput_rps": changed.get("rps", 2.0),
        "ttft_s": {
            "mean": changed.get("ttft", 1.0),
            "p50": 1.0,
            "p90": 2.0,
            "p99": changed.get("ttft99", 3.0),
        },
        "e2e_s": {
            "mean": changed.get("e2e", 10.0),
            "p50": 9.0,
            "p90": 15.0,
            "p99": changed.get("e2e99", 20.0),
        },
        "preemptions": changed.get("preemptions", 50),
        "recompute_tax": changed.get("tax", 0.10),
        "kv_utilization_mean": 0.8,
    }


def test_the_best_is_named_with_its_distance_to_the_baseline_and_where_it_loses() -> None:
    verdict = judge([summary("other", e2e=8.0, e2e99=25.0, tax=0.04), summary("preempt-evict")])
    assert (
        "other has the best mean end-to-end latency (8.00 s, 20.0% below preempt-evict)" in verdict.headline
    )
    assert "recompute tax (4.0%, 6.0 points below preempt-evict)" in verdict.headline
    assert "preempt-evict has the best p99 end-to-end latency (20.0 s, 20.0% below other)" in verdict.headline
    assert verdict.losses == (
        "other does not lead on p99 end-to-end latency (25.0 s; preempt-evict has 20.0 s)."
    )


def test_the_baseline_is_quoted_where_the_winner_is_worse_than_it_and_a_third_leads() -> None:
    verdict = judge(
        [summary("preempt-evict"), summary("fast", e2e=5.0, ttft99=9.0), summary("even", ttft99=1.0)]
    )
    assert "p99 time to first token (9.00 s; even has 1.00 s, preempt-evict 3.00 s)" in verdict.losses


def test_a_clean_winner_is_said_to_be_beaten_on_nothing() -> None:
    verdict = judge(
        [summary("preempt-evict"), summary("best", e2e=5.0, e2e99=9.0, ttft=0.5, tax=0.01, rps=3.0)]
    )
    assert verdict.losses == "best is beaten on none of the 6 figures compared."


def test_equal_figures_have_no_winner() -> None:
    assert judge([summary("a"), summary("b")]).headline == "All 2 strategies give the same figures here."
    assert judge([summary("a"), summary("b", e2e=10.001)]).headline.startswith("All 2 strategies")
    assert not judge([summary("a"), summary("b", e2e=10.2)]).headline.startswith("All 2 strategies")


def test_one_strategy_alone_is_compared_with_nothing() -> None:
    verdict = judge([summary("lcf")])
    assert verdict.headline.startswith("lcf ran alone: mean end-to-end latency 10.0 s")
    assert verdict.losses == ""


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        judge([])


@pytest.mark.parametrize(
    ("runs", "arrival_rps", "expected", "said"),
    [
        ([summary("a", preemptions=0)], None, "Nothing was preempted", True),
        ([summary("a", preemptions=1)], None, "Nothing was preempted", False),
        ([summary("a") | {"completed": 90}], None, "a 90 of 100", True),
        ([summary("a")], None, "Not every request", False),
        ([summary("a", rps=2.0)], 3.0, "overloaded: 3.00 requests a second arrive, at most 2.00", True),
        ([summary("a", rps=2.0)], 2.05, "overloaded", False),
    ],
)
def test_cautions(runs: list[dict[str, Any]], arrival_rps: float | None, expected: str, said: bool) -> None:
    assert (expected in judge(runs, arrival_rps).caution) is said


def test_unmeasured_latencies_are_no_crash_and_no_win() -> None:
    nothing = summary("none", e2e=None, e2e99=None, ttft=None, ttft99=None)
    verdict = judge([summary("preempt-evict"), nothing])
    assert "none has" not in verdict.headline
    assert "-" in [cell.text for cell in table_rows([nothing])[0].cells]


def test_a_table_marks_the_best_of_a_column_and_nobody_where_all_are_alike() -> None:
    slow, fast = table_rows([summary("slow"), summary("fast", e2e=5.0)])
    assert [cell.text for cell, other in zip(fast.cells, slow.cells, strict=True) if cell.is_best] == [
        "5.00 s"
    ]
    assert not any(cell.is_best for cell in slow.cells)
