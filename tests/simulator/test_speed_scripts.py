"""The scripts behind the figures of speed in docs/reference/simulator.md do at a small size what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks import one_million, speed_against_vllm
from benchmarks.requests_of import requests_of

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads.traces import read_trace

pytest.importorskip("numba")


def test_an_extended_trace_keeps_its_lengths_and_its_rate(tmp_path: Path) -> None:
    trace = list(read_trace("azure-conv"))
    count = 2 * len(trace) + 10
    one_million.write(tmp_path / "trace.csv", one_million.extended("azure-conv", count, 5.0))
    written = list(read_trace(tmp_path / "trace.csv"))
    assert len(written) == count
    assert count / written[-1].arrival_s == pytest.approx(5.0, rel=0.01)

    def lengths(part: slice) -> list[tuple[int, int]]:
        return [(request.prompt_tokens, request.output_tokens) for request in written[part]]

    once, again = lengths(slice(len(trace))), lengths(slice(len(trace), 2 * len(trace)))
    assert once == [(request.prompt_tokens, request.output_tokens) for request in trace]
    assert again != once
    assert sorted(again) == sorted(once)


def test_a_file_is_read_and_simulated_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert one_million.main(["--requests", "400", "--strategy", "lcf"]) == 0
    text = capfd.readouterr().out
    for size in one_million.SIZES:
        assert f"{size.num_gpu_blocks} blocks, {size.max_num_seqs} sequences, lcf" in text
    assert text.count("400 requests read") == 2
    assert len(re.findall(r"[\d.]+ s wall, [\d.]+ s CPU, \d+ MB at most", text)) == 2


def test_the_comparison_fails_when_the_two_did_not_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineConfig(num_gpu_blocks=600, max_num_seqs=32)
    done = simulate(
        requests_of("azure-conv", 40, engine),
        resolve("preempt-evict"),
        engine,
        load_profile(speed_against_vllm.PROFILE),
        backend="python",
    )
    real = {
        "requests": 40,
        "steps": done.totals.steps,
        "scheduled_tokens": done.totals.scheduled_tokens,
        "preemptions": done.totals.preemptions,
        "simulated_s": done.simulated_s,
        "calls_cpu_s": 0.5,
        "cpu_s": 1.0,
        "wall_s": 1.0,
    }
    monkeypatch.setattr(speed_against_vllm, "_real", lambda *_: real)
    pace = speed_against_vllm.measure("azure-conv", 40, engine, "python")
    assert "40 requests per CPU second" in str(pace)
    assert f"{pace.steps} steps" in str(pace)
    real["steps"] += 1
    with pytest.raises(RuntimeError, match="the simulator did"):
        speed_against_vllm.measure("azure-conv", 40, engine, "python")
