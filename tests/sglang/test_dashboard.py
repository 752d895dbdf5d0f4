"""A real Prometheus scrapes a real SGLang server under pressure: every panel and every alert has data.

The same run's decision log is held against the engine's own counters.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from tests.served import CLIENTS, Served, setbacks_of, timeline_of
from tiny_model import VOCABULARY, write_model

from bidkv.observability.log_lines import Finish
from bidkv.observability.log_reader import read_log
from bidkv.observability.prometheus_page import get_text
from bidkv.observability.replay_views import LoggedEngine
from bidkv.policy.parts.recompute import cheapest_to_recompute

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600)]

FLAGS = shlex.split(
    "--device cpu --skip-tokenizer-init --attention-backend torch_native --sampling-backend pytorch "
    "--dtype float32 --mem-fraction-static 0.05 --max-total-tokens 512 --max-running-requests 8 "
    "--disable-cuda-graph --grammar-backend none --page-size 1 --schedule-conservativeness 0.0 "
    "--skip-server-warmup --log-level warning --enable-metrics"
)

RETRACTIONS = "retractions.jsonl"


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
        "RETRACTIONS_FILE": str(folder / RETRACTIONS),
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


def test_the_page_passes_promtool(served):
    assert served.lint() == ""


def test_the_log_agrees_with_the_engines_own_counters(served):
    served.rest()
    metrics = served.metrics()
    page = get_text(f"{served.url}/metrics")
    told = served.stories()
    setbacks = setbacks_of(told)
    assert served.served >= CLIENTS
    assert len(setbacks) == metrics["sglang:num_retracted_requests_total"] > 5
    assert len(setbacks) == metrics["bidkv_preemptions_by_policy_total"]
    # SGLang counts what it computed, and again without what it computed twice.
    computed = by_mode(page, "sglang:realtime_tokens_total", "prefill_compute")
    needed = by_mode(page, "sglang:prefill_effective_tokens_total", "input")
    assert sum(story.recomputed_tokens for story in told.values()) == computed - needed > 0
    lost_inputs = lost_outputs = 0
    for setback in setbacks:
        victim = setback.decision.candidate(setback.preemption.request_id)
        # The log holds what the policy saw: asked again, it names the same request.
        assert cheapest_to_recompute(setback.decision.candidates, LoggedEngine()) == victim
        assert victim.num_output_tokens == setback.preemption.output_tokens
        lost_inputs += victim.num_prompt_tokens
        lost_outputs += victim.num_output_tokens
    assert lost_inputs == metrics["sglang:num_retracted_input_tokens_total"]
    assert lost_outputs == metrics["sglang:num_retracted_output_tokens_total"]


def test_the_victims_in_the_log_are_those_a_hook_of_its_own_saw(served):
    served.rest()
    seen = [json.loads(line) for line in (served.log.parent / RETRACTIONS).read_text().splitlines()]
    logged = sorted(setbacks_of(served.stories()), key=lambda setback: setback.preemption.time_s)
    assert [rid for record in seen for rid in record["retracted"]] == [
        setback.preemption.request_id for setback in logged
    ]


def test_the_timeline_shows_every_stay_and_every_preemption(served):
    served.rest()
    stays, preemptions = timeline_of(served.log)
    assert preemptions == served.metrics()["sglang:num_retracted_requests_total"]
    # SGLang answers a question after its health by serving a request of its own.
    finished = [line.request_id for line in read_log(served.log) if isinstance(line, Finish)]
    checks = sum(request_id.startswith("HEALTH_CHECK") for request_id in finished)
    assert stays == served.served + checks + preemptions


def by_mode(page: str, name: str, mode: str) -> float:
    (value,) = re.findall(rf'^{name}{{.*mode="{mode}".*}} (\S+)$', page, re.MULTILINE)
    return float(value)
