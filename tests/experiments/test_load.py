"""The load generator against a server that misbehaves: nothing it does may be hidden from the figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from bidkv.adapters.sglang.request_view import SglangRequest
from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.experiments.load_samples import LoadReport, Sample, make_records, read_samples
from bidkv.experiments.request_bodies import prepare, prompt_source
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome
from bidkv.workloads.traces import write_mooncake

Start = Callable[..., str]


def evenly(n: int, rate_rps: float, output: int = 6) -> list[WorkloadRequest]:
    return [WorkloadRequest(f"r{i}", i / rate_rps, 20, output) for i in range(n)]


def applied(
    url: str, requests: Sequence[WorkloadRequest], folder: Path, drain_s: float = 30.0
) -> tuple[LoadReport, list[Sample]]:
    write_mooncake(requests, folder / "requests.jsonl")
    words = ["--url", url, "--dialect", "vllm", "--model", "fake", "--vocabulary", "1000"]
    words += ["--workload", str(folder / "requests.jsonl"), "--drain-s", str(drain_s)]
    words += ["--output", str(folder / "samples.jsonl")]
    subprocess.run([sys.executable, "-m", "bidkv.experiments.load_generator", *words], check=True)
    return read_samples(folder / "samples.jsonl")


def test_every_token_of_every_request_is_seen(fake_server: Start, tmp_path: Path) -> None:
    requests = evenly(20, 40.0, output=7)
    report, samples = applied(fake_server(), requests, tmp_path)
    assert report.completed == report.requests == 20
    for sample, request in zip(samples, requests, strict=True):
        assert sample.request_id == request.request_id
        assert sample.intended_s == request.arrival_s
        assert [count for _, count in sample.chunks] == [2, 2, 2, 1]
        times = [sample.sent_s, *(time_s for time_s, _ in sample.chunks), sample.done_s]
        assert None not in times
        assert times == sorted(times)  # type: ignore[type-var]


def test_a_stall_shows_in_every_request_that_was_due_in_it(fake_server: Start, tmp_path: Path) -> None:
    log = tmp_path / "stall.json"
    url = fake_server(stall_at=20, stall_s=2.0, stall_log=log)
    requests = evenly(80, 20.0)
    report, samples = applied(url, requests, tmp_path)
    began_s, ended_s = (time_s - report.start_s for time_s in json.loads(log.read_text()))
    due = [s for s in samples if began_s <= s.intended_s < ended_s]
    assert len(due) == pytest.approx(20 * (ended_s - began_s), abs=1)
    records = {r.request_id: r for r in make_records(requests, samples)}
    for sample in due:
        record = records[sample.request_id]
        assert record.outcome is Outcome.COMPLETED
        assert record.ttft_s is not None
        assert record.ttft_s >= ended_s - sample.intended_s
    # The load went on meanwhile: requests left while nobody answered.
    left = [s for s in due if s.sent_s is not None and s.sent_s < ended_s]
    assert len(left) > len(due) / 2
    assert report.send_lag_p99_ms is not None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no-done", r"without \[DONE\]"),
        ("short", "5 tokens came, 6 were asked for"),
        ("http", "HTTP 503"),
        ("error", "out of luck"),
        ("hang", "not finished 1 s after the last request"),
        ("die", ""),
    ],
)
def test_a_request_that_went_wrong_is_a_failure(
    fake_server: Start, tmp_path: Path, fault: str, message: str
) -> None:
    requests = evenly(5, 50.0)
    report, samples = applied(fake_server(fault=fault, faulty="r2"), requests, tmp_path, drain_s=1.0)
    records = make_records(requests, samples)
    assert records[2].outcome is Outcome.FAILED
    assert records[2].finish_s is None
    assert records[2].detail
    assert re.search(message, records[2].detail)
    if fault != "die":
        assert report.completed == 4
        assert [r.outcome for r in records].count(Outcome.COMPLETED) == 4


def test_latency_counts_from_the_intended_time() -> None:
    sample = Sample("r0", 1.0, sent_s=3.0, chunks=[(3.5, 1), (4.0, 2)], done_s=4.1)
    (record,) = make_records([WorkloadRequest("r0", 1.0, 9, 3)], [sample])
    assert (record.ttft_s, record.e2e_s, record.output_tokens) == (2.5, 3.0, 3)
    assert LoadReport.summarize(0.0, [sample]).send_lag_max_ms == 2000.0


def test_a_request_nobody_saw_failed() -> None:
    (record,) = make_records([WorkloadRequest("r0", 1.0, 9, 3)], [])
    assert (record.outcome, record.detail) == (Outcome.FAILED, "never sent")


def test_equal_hash_ids_give_equal_prompts_and_other_runs_other_tokens() -> None:
    first = WorkloadRequest("a", 0.0, 1100, 5, hash_ids=(1, 2, 3))
    second = WorkloadRequest("b", 0.0, 700, 5, hash_ids=(1, 9))
    alone = WorkloadRequest("c", 0.0, 700, 5)
    prompt = prompt_source(1000, "salt")
    prompts = [prompt(r) for r in (first, second, alone)]
    assert [len(p) for p in prompts] == [1100, 700, 700]
    assert prompts[0][:512] == prompts[1][:512]
    assert prompts[0][512:700] != prompts[1][512:]
    assert prompts[2][:512] != prompts[1][:512]
    assert prompt_source(1000, "other")(first) != prompts[0]
    assert all(10 <= token < 1000 for p in prompts for token in p)


def test_what_a_policy_may_know_travels_with_the_request() -> None:
    request = WorkloadRequest("a", 0.0, 3, 5, deadline_ms=900.0, weight=2.0, agent_id="x", priority=-1)
    vllm, sglang = (json.loads(prepare([request], d, "m", 100, "")[0].body) for d in ("vllm", "sglang"))
    known = {"bidkv_max_tokens": 0, "bidkv_deadline_ms": 900.0, "bidkv_weight": 2.0, "bidkv_agent_id": "x"}
    assert vllm["vllm_xargs"] == known
    assert sglang["sampling_params"]["custom_params"] == known
    # SGLang's sign is the other one: higher is more important.
    assert (vllm["priority"], sglang["priority"]) == (-1, 1)
    assert vllm["stream_options"]["continuous_usage_stats"] is True


def test_a_broken_samples_file_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}\n", '{"version": 2}\n', "[]\n", "no json\n"):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(ValueError, match="expected samples of version 1"):
            read_samples(tmp_path / "x.jsonl")


@pytest.mark.parametrize(("cap", "seen"), [(None, None), (900, 900)])
def test_no_policy_sees_the_length_a_request_is_ended_at(cap: int | None, seen: int | None) -> None:
    request = WorkloadRequest("a", 0.0, 30, 50, max_tokens=cap)
    vllm, sglang = (json.loads(prepare([request], d, "m", 100, "")[0].body) for d in ("vllm", "sglang"))
    of_vllm = SimpleNamespace(
        request_id="a",
        priority=0,
        num_preemptions=0,
        num_prompt_tokens=30,
        max_tokens=vllm["max_tokens"],
        _output_token_ids=[],
        sampling_params=SimpleNamespace(extra_args=vllm["vllm_xargs"]),
    )
    sampling = SimpleNamespace(**sglang["sampling_params"])
    of_sglang = SimpleNamespace(rid="a", priority=None, origin_input_ids=[1] * 30, sampling_params=sampling)
    engine = SimpleNamespace(
        now_s=0.0, low_values_first=True, max_request_tokens=2000, max_pool_tokens=2000, block_size=1
    )
    assert (vllm["max_tokens"], sglang["sampling_params"]["max_new_tokens"]) == (50, 50)
    assert VllmRequest(of_vllm, 0.0, {}, 2000).max_tokens == seen
    assert SglangRequest(of_sglang, engine).max_tokens == seen  # type: ignore[arg-type]
    # Without a stated cap, the request's own limit is what policies see.
    of_vllm.sampling_params.extra_args = {}
    sampling.custom_params = None
    assert VllmRequest(of_vllm, 0.0, {}, 2000).max_tokens == 50
    assert SglangRequest(of_sglang, engine).max_tokens == 50  # type: ignore[arg-type]
