"""The contract's command line on the real CPU engine: a server started, switched, loaded, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytest.importorskip("aiohttp", reason="needs the [experiments] extra")

from tests.engine_model import write_model

from bidkv.experiments.store import Store
from bidkv.results import Outcome

pytestmark = pytest.mark.vllm

CONTRACT = (
    "--strategies preempt-evict,preempt-evict-sjf,static-random,largest-first,bidkv --workloads mixed "
    "--mixed-rates 2.0,3.8,5.7 --runs 3 --gpu-memory-utilization 0.5 --num-gpu-blocks-override 600 "
    "--max-num-seqs 32"
)
# Appended words take the place of the contract's own, so that this takes minutes and memory is short: every
# request of the workload is due within a second, and a third of them fill the cache.
SHORTER = (
    "--strategies preempt-evict,bidkv --mixed-rates 30 --runs 1 --requests 20 --num-gpu-blocks-override 130"
)


def processes_of(word: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line and int(folder.name) != os.getpid():
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.timeout(600)
def test_the_contracts_command_line_on_the_real_engine(tmp_path: Path) -> None:
    # No model is named, as in the contract: on a CPU the runner brings one.
    words = [*CONTRACT.split(), "--output-dir", str(tmp_path / "out"), *SHORTER.split()]
    # How late a shared machine sends is reported, and no reason to fail here.
    words += ["--send-lag-limit-ms", "60000"]
    ran = subprocess.run(
        [sys.executable, "-m", "bidkv.experiments.vllm.runner", *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "vLLM for CPUs" in ran.stderr
    assert "--block-size 32" in ran.stderr
    assert f"a tiny random model with 2 layers, written to {tmp_path / 'out' / 'tiny-model'}" in ran.stderr
    assert processes_of(str(tmp_path / "out" / "tiny-model")) == []

    base, ours = (run.result for run in Store.open(tmp_path / "out").runs())
    assert (base.strategy, ours.strategy) == ("preempt-evict", "bidkv")
    for result in (base, ours):
        assert len(result.records) == 20
        assert {(r.outcome, r.detail) for r in result.records} == {(Outcome.COMPLETED, "")}
        assert result.notes["engine"]["block_size"] == 32
        assert result.notes["engine"]["usable_blocks"] == result.totals.usable_blocks == 129
        assert result.notes["control"]["arrivals"] == 20
        assert result.notes["control"]["completions"] == 20
        assert result.totals.preemptions > 0
        assert max(point.used_blocks for point in result.timeline) > 60
        for record in result.records:
            assert record.ttft_s is not None
            assert record.e2e_s is not None
            assert 0.0 < record.ttft_s <= record.e2e_s
    # The identical requests, of the lengths asked for.
    shapes = [[(r.request_id, r.prompt_tokens, r.output_tokens) for r in x.records] for x in (base, ours)]
    assert shapes[0] == shapes[1]
    assert base.notes["control"]["decisions"] == 0
    assert ours.notes["control"]["decisions"] > 0
    assert ours.notes["control"]["preemptions_by_policy"] > 0
    assert ours.notes["control"]["failures"] == 0


@pytest.mark.timeout(600)
def test_sessions_on_the_real_engine_find_their_past(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", max_model_len=16384)
    words = ["--strategies", "sessions", "--workload", "agents-8-turns", "--concurrent-sessions", "3"]
    words += ["--runs", "1", "--requests", "30", "--duration-s", "20", "--num-gpu-blocks-override", "2000"]
    words += ["--warmup", "1"]
    words += ["--output-dir", str(tmp_path / "out"), "--model", str(model), "--send-lag-limit-ms", "60000"]
    ran = subprocess.run(
        [sys.executable, "-m", "bidkv.experiments.vllm.runner", *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (result,) = (run.result for run in Store.open(tmp_path / "out").runs())
    assert result.notes["control"]["failures"] == 0
    assert {(r.outcome, r.detail) for r in result.records} == {(Outcome.COMPLETED, "")}
    later = [record for record in result.records if record.turn]
    assert later, "some session came to its second turn"
    # With room for all sessions, a turn finds its whole past: the answers are the engine's own tokens.
    for record in later:
        past_tokens = record.prompt_tokens - record.new_tokens
        assert record.cached_tokens >= (past_tokens - 1) // 32 * 32
    assert result.summary()["lost_prefix_tokens"] == 0
