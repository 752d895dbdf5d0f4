"""The contract's command line on the real CPU engine of SGLang: started, switched, loaded, stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from tests.engine_model import write_model

from bidkv.experiments.store import Store
from bidkv.results import Outcome

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
CONTRACT = "--strategies sglang_default,slack_aware,bidkv --workloads mixed --runs 3"
# Appended words take the place of the contract's own: a short run with little memory.
SHORTER = (
    "--strategies sglang_default,bidkv --runs 1 --mixed-rates 20 --requests 10 "
    "--max-total-tokens 4500 --max-running-requests 16 --mem-fraction-static 0.05 --send-lag-limit-ms 60000"
)
SERVER = "--skip-server-warmup --log-level warning --schedule-conservativeness 0.0"
# Equipment of these tests, in the server and in the processes it spawns.
SHIMS = f"""
import sys
words = " ".join(sys.orig_argv)
if "sglang.serve" in words or "multiprocessing" in words:
    sys.path.insert(0, {str(HERE)!r})
    import shims
    shims.install()
"""


def run_experiment(tmp_path, words, max_model_len=4096):
    """Run the command line on a tiny model; return what it said."""
    model = write_model(tmp_path / "model", max_model_len=max_model_len)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHIMS)
    given = [*words, "--output-dir", str(tmp_path / "out"), "--model", str(model), f"--server-args={SERVER}"]
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "bidkv.experiments.sglang.runner", *given],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_command_line_on_the_real_engine(tmp_path):
    ran = run_experiment(tmp_path, [*CONTRACT.split(), *SHORTER.split()])
    assert ran.returncode == 0, ran.stderr
    assert "without GPU kernels" in ran.stderr
    runs = [run.result for run in Store.open(tmp_path / "out").runs()]
    assert [run.strategy for run in runs] == ["sglang_default", "bidkv"]
    for run in runs:
        assert [(r.outcome, r.detail) for r in run.records] == [(Outcome.COMPLETED, "")] * 10
        assert run.notes["engine"]["usable_blocks"] == run.totals.usable_blocks == 4500
        assert run.notes["control"]["arrivals"] == 10
        assert run.notes["control"]["failures"] == 0
    assert runs[0].totals.preemptions + runs[1].totals.preemptions > 0
    assert [(r.request_id, r.output_tokens) for r in runs[0].records] == [
        (r.request_id, r.output_tokens) for r in runs[1].records
    ]


def test_sessions_on_the_real_engine_find_their_past(tmp_path):
    words = "--strategies sglang_default --workload agents-8-turns --concurrent-sessions 2 --runs 1 "
    words += "--requests 30 --duration-s 30 --max-total-tokens 60000 --max-running-requests 16 "
    words += "--mem-fraction-static 0.05 --warmup 1 --send-lag-limit-ms 60000"
    ran = run_experiment(tmp_path, words.split(), max_model_len=16384)
    assert ran.returncode == 0, ran.stderr
    (result,) = (run.result for run in Store.open(tmp_path / "out").runs())
    assert {(r.outcome, r.detail) for r in result.records} == {(Outcome.COMPLETED, "")}
    later = [record for record in result.records if record.turn]
    assert later, "some session came to its second turn"
    # With room for all sessions, a turn finds its past but for the last tokens of an answer.
    for record in later:
        assert record.cached_tokens >= 0.9 * (record.prompt_tokens - record.new_tokens)
