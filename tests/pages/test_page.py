"""The page as a file, and the rows its plots are drawn from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import SessionArrivals
from bidkv.report.series import CDF_STEPS, TIME_STEPS, latency_rows, memory_rows, tax_rows, timeline_rows
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint
from bidkv.simulator import EngineConfig, simulate, simulate_sessions
from bidkv.workloads.session_families import SESSION_FAMILIES


def small_run(strategy: str = "a", end_s: float = 10.0) -> RunResult:
    """Ten requests of end-to-end latency 1 ... 10 s; 10 of 100 blocks used for half of the run, then 60."""
    records = [RequestRecord(f"r{k}", 0.0, 10, 5, 0.5 * k, float(k)) for k in range(1, 11)]
    timeline = [TimelinePoint(0.0, 10, 1, 0, 0), TimelinePoint(end_s / 2, 60, 1, 0, 3)]
    totals = EngineTotals(scheduled_tokens=200, recomputed_tokens=50, preemptions=3, usable_blocks=100)
    return RunResult(strategy, records, totals, end_s, 0.1, timeline)


def test_latency_rows_are_nearest_rank_percentiles() -> None:
    rows = [r for r in latency_rows([small_run()]) if r["metric"] == "end to end"]
    assert len(rows) == CDF_STEPS
    at = {row["percent"]: row["seconds"] for row in rows}
    assert (at[0.5], at[50.0], at[50.5], at[99.0], at[100.0]) == (1.0, 5.0, 6.0, 10.0, 10.0)


def test_timeline_rows_are_time_averages_and_counts_so_far() -> None:
    rows = timeline_rows([small_run()])
    assert len(rows) == TIME_STEPS
    assert {row["kv_use"] for row in rows} == {0.1, 0.6}
    assert sum(row["kv_use"] for row in rows) / TIME_STEPS == pytest.approx(0.35)
    assert [row["preemptions"] for row in rows] == sorted(row["preemptions"] for row in rows)
    assert rows[-1] == {"strategy": "a", "time_s": 10.0, "kv_use": 0.6, "preemptions": 3, "waiting": 0}


def test_a_shorter_run_shares_the_grid_of_the_longest() -> None:
    rows = timeline_rows([small_run("long", 10.0), small_run("short", 5.0)])
    times = {name: [r["time_s"] for r in rows if r["strategy"] == name] for name in ("long", "short")}
    assert times["short"] == times["long"][: TIME_STEPS // 2]


def test_a_run_without_a_timeline_has_no_line() -> None:
    bare = RunResult("bare", (), EngineTotals(), 0.0, 0.0)
    assert timeline_rows([bare]) == []
    assert [r["strategy"] for r in timeline_rows([bare, small_run()])] == ["a"] * TIME_STEPS
    assert latency_rows([bare]) == []
    assert tax_rows([bare])[0]["recompute_tax"] == 0.0


def test_tax_rows() -> None:
    assert tax_rows([small_run()])[0] == {
        "strategy": "a",
        "recompute_tax": 0.25,
        "recomputed_tokens": 50,
        "scheduled_tokens": 200,
        "preemptions": 3,
    }


def test_the_page_is_one_small_file_that_refers_to_nothing_outside(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)\s*=\s*(\S+?)[\s>]", markup) == ['"#plots"']
    assert "url(" not in markup
    assert "default-src 'none'" in markup


def test_the_page_says_how_it_was_thinned_and_holds_the_data(page_file: Path, runs: list[RunResult]) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert f"{CDF_STEPS} nearest-rank percentiles" in text
    assert f"{TIME_STEPS} equal parts" in text
    found = re.search(r'id="page-data">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))["data"]
    place = data["figures"]["columns"].index("preemptions")
    assert [row[place] for row in data["figures"]["rows"]] == [run.totals.preemptions for run in runs]
    assert len(data["latency"]["rows"]) == 2 * CDF_STEPS * len(runs)


def test_the_same_results_give_the_same_page(runs: list[RunResult]) -> None:
    page = pytest.importorskip("bidkv.report.page", reason="needs the [report] extra")
    assert page.render_report(runs[:2], {"seed": 1}) == page.render_report(runs[:2], {"seed": 1})


def test_a_page_of_sessions_shows_their_figures_and_who_holds_the_cache() -> None:
    page = pytest.importorskip("bidkv.report.page", reason="needs the [report] extra")
    runs = [simulate_thrash("preempt-evict"), simulate_thrash("fair")]
    text = page.render_report(runs, {"trace": "agents", "concurrent_sessions": 20})
    assert "Figures of sessions" in text
    assert "session p99" in text
    assert "computed/new" in text
    assert "The prefix cache thrashes" in text
    assert "KV cache under fair" in text
    rows = memory_rows(runs)
    by_time: dict[tuple[str, float], float] = {}
    for row in rows:
        key = (row["strategy"], row["time_s"])
        by_time[key] = by_time.get(key, 0.0) + row["share"]
    assert all(total == pytest.approx(1.0, abs=1e-3) for total in by_time.values())
    assert max(row["share"] for row in rows if row["part"] == "idle sessions") > 0.2
    # Runs of single requests have no such part.
    assert "Figures of sessions" not in page.render_report([simulate_single()], {"trace": "requests"})


def simulate_thrash(name: str) -> RunResult:
    sessions = SESSION_FAMILIES["agents-8-turns"](40, 1)
    engine = EngineConfig(num_gpu_blocks=4000, max_num_seqs=64, enable_prefix_caching=True)
    arrivals = SessionArrivals.at_concurrency(20)
    profile = load_profile("h100-llama3.1-8b")
    return simulate_sessions(sessions, arrivals, resolve(name), engine, profile, duration_s=60.0)


def simulate_single() -> RunResult:
    requests = [WorkloadRequest(f"r{index}", float(index), 100, 20) for index in range(30)]
    engine = EngineConfig(num_gpu_blocks=600, enable_prefix_caching=True)
    return simulate(requests, resolve("preempt-evict"), engine, load_profile("h100-llama3.1-8b"))
