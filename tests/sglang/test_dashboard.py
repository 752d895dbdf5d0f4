"""A real Prometheus scrapes a real SGLang server under pressure: every panel and every alert has data."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from tests.served import CLIENTS, Served, setbacks_of
from tiny_model import VOCABULARY, write_model

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600)]

FLAGS = shlex.split(
    "--device cpu --skip-tokenizer-init --attention-backend torch_native --sampling-backend pytorch "
    "--dtype float32 --mem-fraction-static 0.05 --max-total-tokens 512 --max-running-requests 8 "
    "--disable-cuda-graph --grammar-backend none --page-size 1 --schedule-conservativeness 0.0 "
    "--skip-server-warmup --log-level warning --enable-metrics"
)


def body(client: int, number: int) -> dict:
    return {
        "rid": f"c{client}-{number}",
        "input_ids": [(7 * client + 31 * number + i) % VOCABULARY for i in range(10 + client)],
        "sampling_params": {"max_new_tokens": 40 + 3 * client, "temperature": 0.0, "ignore_eos": True},
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus: scripts/setup-prometheus.sh")
    folder = tmp_path_factory.mktemp("dashboard")
    model = write_model(folder / "model")
    command = [
        *(sys.executable, str(Path(__file__).with_name("serve_main.py"))),
        *("--model-path", str(model), *FLAGS),
    ]
    environment = {
        "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "4",  # or nothing would ever be retracted
        "SGLANG_RETRACT_DECODE_STEPS": "1",
        "RETRACTIONS_FILE": str(folder / "retractions.jsonl"),
        "OMP_NUM_THREADS": "1",
    }
    server = Served(folder, command, environment, "/generate", body)
    try:
        server.start_load()
        yield server
    finally:
        server.stop()


def test_every_panel_and_every_alert_has_data(served):
    asked = served.all_queries_answered("sglang")
    assert len(asked) > 35
    assert {answer.query.source: float(answer.sample) for answer in asked}["Policy"] == 1.0


def test_the_log_agrees_with_the_engines_own_counters(served):
    served.rest()
    metrics = served.metrics()
    setbacks = setbacks_of(served.stories())
    by_policy = [setback for setback in setbacks if setback.preemption.by == "policy"]
    assert served.served >= CLIENTS
    assert len(setbacks) == metrics["sglang:num_retracted_requests_total"] > 5
    assert len(by_policy) == metrics["bidkv_preemptions_by_policy_total"] > 0
    for setback in by_policy:
        victim = setback.decision.candidate(setback.preemption.request_id)
        assert victim.num_computed_tokens == min(c.num_computed_tokens for c in setback.decision.candidates)
