"""The verdict says what the figures say, and where the winner loses."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from bidkv.evaluation.conditions import QueueGrowth, find_queue_growth
from bidkv.evaluation.figures import SESSION_TABLE, measured_figures, table_rows
from bidkv.report import judge
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint

THRASH = {"lost_prefix_share": 0.4, "prefix_hit_rate": 0.3}
NO_THRASH = {"lost_prefix_share": 0.0, "prefix_hit_rate": 0.9}


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
    assert judge([summary("a"), summary("b")]).headline == "Both strategies give the same figures here."
    assert judge([summary("a"), summary("b", e2e=10.001)]).headline.startswith("Both strategies")
    assert not judge([summary("a"), summary("b", e2e=10.2)]).headline.startswith("Both strategies")


def test_a_difference_that_does_not_show_is_none() -> None:
    runs = [summary("a", ttft=0.0312, e2e=5.0, e2e99=9.0), summary("b", ttft=0.0308)]
    verdict = judge(runs)
    assert "mean time to first token" not in verdict.losses
    assert "0.031 s" in table_rows(runs)[0].cells[1].text
    assert not table_rows(runs)[0].cells[1].is_best


def test_one_strategy_alone_is_compared_with_nothing() -> None:
    verdict = judge([summary("lcf")])
    assert verdict.headline.startswith("lcf ran alone: mean end-to-end latency 10.0 s")
    assert verdict.losses == ""


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        judge([])


@pytest.mark.parametrize(
    ("runs", "expected", "said"),
    [
        ([summary("a", preemptions=0)], "Nothing was preempted: memory was never short", True),
        ([summary("a", preemptions=1)], "Nothing was preempted", False),
        ([summary("a") | {"completed": 90}], "a 90 of 100", True),
        ([summary("a")], "Not every request", False),
        ([summary("a", preemptions=0) | THRASH], "memory was never short", False),
        ([summary("a", preemptions=0) | THRASH], "memory was short for prefixes", True),
        ([summary("a") | THRASH, summary("b") | NO_THRASH], "thrashes", True),
        ([summary("a") | THRASH], "evicted are a 40.0% (hit rate 30.0%)", True),
        ([summary("a", preemptions=0) | NO_THRASH], "thrashes", False),
        ([summary("a", preemptions=0) | NO_THRASH], "never short for running requests", True),
        (
            [summary("a") | {"lost_prefix_share": 0.05, "prefix_hit_rate": 0.5}],
            "lost and computed again",
            True,
        ),
    ],
)
def test_cautions(runs: list[dict[str, Any]], expected: str, said: bool) -> None:
    assert (expected in judge(runs).caution) is said


def simulate_load(rate_rps: float, requests: int = 400) -> RunResult:
    """A server of one request at a time, 1 s each: overloaded above one request a second."""
    records, timeline, free_s = [], [], 0.0
    draw = Random(1)
    now_s = 0.0
    starts: list[float] = []
    for index in range(requests):
        now_s += draw.expovariate(rate_rps)
        start_s = max(now_s, free_s)
        free_s = start_s + 1.0
        starts.append(start_s)
        records.append(RequestRecord(f"r{index}", now_s, 10, 10, start_s, free_s, 0))
        waiting = sum(start > now_s for start in starts)
        timeline.append(TimelinePoint(now_s, 1, 1, waiting, 0))
    return RunResult("own", records, EngineTotals(), free_s, 0.0, timeline)


@pytest.mark.parametrize(("rate_rps", "grows"), [(0.3, False), (0.7, False), (1.5, True), (3.0, True)])
def test_an_engine_is_overloaded_when_its_queue_grows(rate_rps: float, grows: bool) -> None:
    growth = find_queue_growth(simulate_load(rate_rps))
    assert (growth is not None) is grows
    said = judge([summary("a", rps=0.5 * rate_rps)], [growth]).caution
    assert ("The engine is overloaded" in said) is grows
    if growth is not None:
        assert growth.arrival_rate_rps == pytest.approx(rate_rps, rel=0.15)
        assert growth.entry_rate_rps == pytest.approx(1.0, rel=0.1)


def test_the_drain_and_a_start_all_at_once_are_no_overload() -> None:
    # Long answers: the last one leaves long after the last arrival, and nothing ever waits.
    lasting = [RequestRecord(f"r{i}", float(i), 10, 900, i + 0.1, i + 500.0, 0) for i in range(60)]
    points = [TimelinePoint(float(t), 50, 40, 0, 0) for t in range(560)]
    assert find_queue_growth(RunResult("own", lasting, EngineTotals(), 560.0, 0.0, points)) is None
    at_once = [RequestRecord(f"r{i}", 0.0, 10, 10, i + 0.1, i + 1.0, 0) for i in range(60)]
    queue = [TimelinePoint(float(t), 50, 1, 59 - t, 0) for t in range(60)]
    assert find_queue_growth(RunResult("own", at_once, EngineTotals(), 60.0, 0.0, queue)) is None


def test_overload_under_some_strategies_only_names_them() -> None:
    growth = QueueGrowth(0.0, 100.0, 200, 100)
    said = judge([summary("slow"), summary("quick")], [growth, None]).caution
    assert "overloaded under slow: from 0 to 100 s 2.00 requests a second arrive and 1.00 leave" in said


def session_summary(
    strategy: str, completion: float, turns_per_s: float, completed: int = 40
) -> dict[str, Any]:
    latency = {"mean": completion, "p50": completion, "p99": 2.0 * completion}
    sessions = {
        "turns": 100,
        "turns_per_s": turns_per_s,
        "completed": completed,
        "turn_s": {"mean": 0.1 * completion, "p50": 1.0, "p99": 0.2 * completion},
        "first_turn_wait_s": latency,
        "completion_s": latency,
        "computed_per_new_token": 1.5,
        "prefix_hit_rate": 0.5,
        "lost_prefix_share": 0.0,
    }
    return summary(strategy) | {"sessions": sessions}


def test_sessions_are_judged_by_when_they_complete() -> None:
    runs = [session_summary("preempt-evict", 50.0, 2.0), session_summary("own", 25.0, 1.5)]
    verdict = judge(runs)
    assert "own has the best mean session completion time (25.0 s, 50.0% below" in verdict.headline
    assert "preempt-evict has the best turns per second (2.00, 33.3% above own)" in verdict.headline
    assert verdict.losses == "own does not lead on turns per second (1.50; preempt-evict has 2.00)."
    assert "Few sessions" not in verdict.caution
    columns = measured_figures(runs, SESSION_TABLE)
    assert [cell.text for cell in table_rows(runs, columns)[1].cells][:3] == ["100", "1.50", "40"]


def test_completion_times_of_few_sessions_are_not_compared() -> None:
    runs = [session_summary("preempt-evict", 50.0, 2.0, completed=3), session_summary("own", 25.0, 2.5)]
    verdict = judge(runs)
    assert "completion" not in verdict.headline + verdict.losses
    assert "own has the best mean turn latency (2.50 s, 50.0% below preempt-evict)" in verdict.headline
    assert "Few sessions completed (preempt-evict 3 and own 40)" in verdict.caution


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
