"""A real Prometheus scrapes a real vLLM server under pressure: every panel and every alert has data.

The same run's decision log is held against the engine's own counters.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine_model import VOCABULARY, write_model
from tests.served import CLIENTS, Served, setbacks_of, timeline_of

from bidkv._version import __version__
from bidkv.observability.prometheus_page import get_text
from bidkv.observability.replay_views import LoggedEngine
from bidkv.policy.parts.recompute import cheapest_to_recompute

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ALERTS = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"

FLAGS = shlex.split(
    "--skip-tokenizer-init --enforce-eager --dtype float32 --gpu-memory-utilization 0.1 --block-size 32 "
    "--max-model-len 1024 --max-num-batched-tokens 256 --max-num-seqs 16 --num-gpu-blocks-override 48 "
    "--no-enable-prefix-caching --served-model-name tiny"
)


def body(client: int, number: int) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt": [(7 * client + 31 * number + i) % VOCABULARY for i in range(60 + 9 * client)],
        "max_tokens": 40 + 5 * client,
        "temperature": 0,
        "ignore_eos": True,
        "detokenize": False,
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus: scripts/setup-prometheus.sh")
    folder = tmp_path_factory.mktemp("dashboard")
    model = str(write_model(folder / "model"))
    command = [sys.executable, "-m", "bidkv.experiments.vllm.serve", "--model", model, *FLAGS]
    server = Served(folder, command, {}, "/v1/completions", body)
    try:
        server.start_load()
        yield server
    finally:
        server.stop()


def test_every_panel_and_every_alert_has_data(served: Served) -> None:
    asked = served.all_queries_answered("vllm")
    assert len(asked) > 40
    by_source = {answer.query.source: float(answer.sample) for answer in asked}
    assert by_source["Policy"] == 1.0
    assert by_source["Failed over"] == 0.0


def test_the_rules_are_loaded_and_none_fails(served: Served) -> None:
    groups = json.loads(get_text(f"{served.prometheus_url}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = re.findall(r"^ +- (?:alert|record): (\S+)", ALERTS.read_text(), re.MULTILINE)
    assert written
    assert sorted(rule["name"] for rule in rules) == sorted(written)
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []


def test_top_reads_both_addresses(served: Served) -> None:
    from typer.testing import CliRunner

    from bidkv.cli.app import app

    result = CliRunner().invoke(app, ["top", served.metrics_url, f"{served.url}/metrics", "--once"])
    assert result.exit_code == 0, result.output
    for part in ("fair", "in charge", "KV memory", "rho", "recompute tax", "vLLM"):
        assert part in result.stdout


def test_simulate_reads_the_size_of_the_running_server(served: Served) -> None:
    from typer.testing import CliRunner

    from bidkv.cli.app import app

    words = ["--trace", "mixed", "--rate", "2", "--limit", "5", "--strategy", "fair", "--json", "-"]
    result = CliRunner().invoke(app, ["simulate", "--from-server", served.url, *words])
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)["config"]
    assert (config["num_gpu_blocks"], config["block_size"], config["max_model_len"]) == (48, 32, 1024)
    assert config["enable_prefix_caching"] is False
    assert "assumed: --max-num-seqs 256, --max-num-batched-tokens 2,048" in result.stderr


def test_the_log_says_at_the_start_who_is_in_charge(served: Served) -> None:
    assert f"bidkv {__version__}: policy 'fair' schedules this engine" in served.engine_log.read_text()


def test_the_page_passes_promtool(served: Served) -> None:
    assert served.lint() == ""


def test_the_log_agrees_with_the_engines_own_counters(served: Served) -> None:
    served.rest()
    metrics = served.metrics()
    told = served.stories()
    setbacks = setbacks_of(told)
    by_policy = [setback for setback in setbacks if setback.preemption.by == "policy"]
    assert served.served >= CLIENTS
    assert len(setbacks) == metrics["vllm:num_preemptions_total"] > 5
    assert len(by_policy) == metrics["bidkv_preemptions_by_policy_total"] > 0
    assert sum(s.preemption.lost_tokens for s in setbacks) == metrics["bidkv_tokens_lost_total"]
    assert sum(story.recomputed_tokens for story in told.values()) == metrics["bidkv_recomputed_tokens_total"]
    for setback in by_policy:
        decision = setback.decision
        assert decision is not None
        assert decision.victim == setback.preemption.request_id
        victim = decision.candidate(decision.victim)
        assert victim is not None
        # Without prefix caching a preemption loses what was computed. All of that is computed again, unless
        # the next preemption comes in the middle of it.
        assert victim.num_computed_tokens == setback.preemption.lost_tokens
        assert setback.recomputed_tokens is not None
        assert setback.recomputed_tokens <= setback.preemption.lost_tokens
        # The log holds what the policy saw: asked again, it names the same request.
        assert cheapest_to_recompute(decision.candidates, LoggedEngine()) == victim
    for story in told.values():
        assert story.setbacks[-1].recomputed_tokens == story.setbacks[-1].preemption.lost_tokens


def test_the_timeline_shows_every_stay_and_every_preemption(served: Served) -> None:
    served.rest()
    stays, preemptions = timeline_of(served.log)
    assert preemptions == served.metrics()["vllm:num_preemptions_total"]
    assert stays == served.served + preemptions


def test_nothing_is_labeled_by_request(served: Served) -> None:
    samples = [line for line in get_text(served.metrics_url).splitlines() if not line.startswith("#")]
    assert len(samples) < 80
    assert not any("cmpl-" in sample for sample in samples)
