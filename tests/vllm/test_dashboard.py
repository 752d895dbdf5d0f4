"""A real Prometheus scrapes a real vLLM server under pressure: every panel and every alert has data.

The same run's decision log is held against the engine's own counters.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.engine_model import VOCABULARY, write_model

from bidkv.experiments.runner.process import Child, free_port
from bidkv.experiments.runner.scrape import get_text
from bidkv.observability.explain import stories
from bidkv.observability.log_reader import read_log

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FLAGS = shlex.split(
    "--skip-tokenizer-init --enforce-eager --dtype float32 --gpu-memory-utilization 0.1 --block-size 32 "
    "--max-model-len 1024 --max-num-batched-tokens 256 --max-num-seqs 16 --num-gpu-blocks-override 48 "
    "--no-enable-prefix-caching"
)
CLIENTS = 24


def wait_for(what: str, ready: Callable[[], bool], limit_s: float, child: Child) -> None:
    deadline_s = time.monotonic() + limit_s
    while not ready():
        assert child.exit_code is None, child.last_lines(40)
        assert time.monotonic() < deadline_s, f"{what} after {limit_s:g} s; {child.last_lines(40)}"
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        get_text(url)
    except OSError:
        return False
    return True


class Served:
    """A server under load, Prometheus beside it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "decisions.jsonl"
        port, self.exporter, prometheus_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{self.exporter}/metrics"
        self.prometheus_url = f"http://127.0.0.1:{prometheus_port}"
        self.model = str(write_model(folder / "model"))
        self.engine = Child(
            [
                *(sys.executable, "-m", "bidkv.experiments.vllm.serve", "--model", self.model),
                *(*FLAGS, "--port", str(port)),
            ],
            folder / "engine.log",
            {
                "BIDKV_STRATEGY": "fair",
                "BIDKV_METRICS_PORT": str(self.exporter),
                "BIDKV_DECISION_LOG": str(self.log),
            },
        )
        config = self._configuration(folder, port)
        self.prometheus = Child(
            [
                *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"),
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
            ],
            folder / "prometheus.log",
        )
        self._stop = threading.Event()
        self._clients = ThreadPoolExecutor(CLIENTS)
        self.served = 0

    def _configuration(self, folder: Path, port: int) -> Path:
        """The configuration that ships, looking at our ports and more often."""
        shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus")
        config = folder / "prometheus/prometheus.yml"
        text = config.read_text()
        for old, new in (("127.0.0.1:8000", f"127.0.0.1:{port}"), ("127.0.0.1:9400", self.metrics_url[7:-8])):
            assert old in text
            text = text.replace(old, new)
        config.write_text(re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 1s", text))
        return config

    def wait_until_healthy(self) -> None:
        wait_for("the engine is not healthy", lambda: answers(f"{self.url}/health"), 300, self.engine)
        ready = f"{self.prometheus_url}/-/ready"
        wait_for("Prometheus is not ready", lambda: answers(ready), 60, self.prometheus)

    def load(self) -> None:
        """Keep the server short of memory until `rest`."""
        for client in range(CLIENTS):
            self._clients.submit(self._one_client, client)

    def _one_client(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            prompt = [(7 * client + 31 * number + i) % VOCABULARY for i in range(60 + 9 * client)]
            body = {
                "model": self.model,
                "prompt": prompt,
                "max_tokens": 40 + 5 * client,
                "temperature": 0,
                "ignore_eos": True,
                "detokenize": False,
            }
            get_text(f"{self.url}/v1/completions", json.dumps(body).encode())
            self.served += 1

    def rest(self) -> None:
        self._stop.set()
        self._clients.shutdown()

    def metrics(self, *urls: str) -> dict[str, float]:
        """Every sample without its labels, summed."""
        found: dict[str, float] = {}
        for url in urls:
            for line in get_text(url).splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    name = name.partition("{")[0]
                    found[name] = found.get(name, 0.0) + float(value)
        return found

    def stop(self) -> None:
        self._stop.set()
        self.prometheus.stop()
        self.engine.stop()
        self._clients.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus: scripts/setup-prometheus.sh")
    server = Served(tmp_path_factory.mktemp("dashboard"))
    try:
        server.wait_until_healthy()
        server.load()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_dashboard", ROOT / "scripts/check_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_panel_and_every_alert_has_data(served: Served, script: ModuleType) -> None:
    asked: list[Any] = []

    def all_answered() -> bool:
        asked[:] = script.check(served.prometheus_url, "vllm")
        return all(answer.series for answer in asked)

    try:
        wait_for("a query returns nothing", all_answered, 90, served.engine)
    finally:
        print(*(f"{a.query.source}: {a.series} {a.sample} {a.error}" for a in asked), sep="\n")
    assert len(asked) > 40
    by_source = {answer.query.source: float(answer.sample) for answer in asked}
    assert by_source["Policy"] == 1.0
    assert by_source["Failed over"] == 0.0


def test_the_rules_are_loaded_and_none_fails(served: Served) -> None:
    groups = json.loads(get_text(f"{served.prometheus_url}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 9
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []


def test_top_reads_both_addresses(served: Served) -> None:
    from typer.testing import CliRunner

    from bidkv.cli.app import app

    result = CliRunner().invoke(app, ["top", served.metrics_url, f"{served.url}/metrics", "--once"])
    assert result.exit_code == 0, result.output
    for part in ("fair", "in charge", "KV memory", "rho", "recompute tax", "vLLM"):
        assert part in result.stdout


def test_the_log_agrees_with_the_engines_own_counters(served: Served) -> None:
    served.rest()
    both = (served.metrics_url, f"{served.url}/metrics")
    idle = lambda: served.metrics(both[0])["bidkv_running_requests"] == 0  # noqa: E731
    wait_for("requests still run", idle, 60, served.engine)
    metrics = served.metrics(*both)
    told = stories(read_log(served.log))
    setbacks = [setback for story in told.values() for setback in story.setbacks]
    assert served.served >= CLIENTS
    assert len(setbacks) == metrics["vllm:num_preemptions_total"] > 5
    by_policy = [setback for setback in setbacks if setback.preemption.by == "policy"]
    assert len(by_policy) == metrics["bidkv_preemptions_by_policy_total"] > 0
    assert sum(s.preemption.lost_tokens for s in setbacks) == metrics["bidkv_tokens_lost_total"]
    assert sum(story.recomputed_tokens for story in told.values()) == metrics["bidkv_recomputed_tokens_total"]
    for setback in by_policy:
        decision = setback.decision
        assert decision is not None
        assert decision.victim == setback.preemption.request_id
        victim = decision.candidate(decision.victim)
        assert victim is not None
        # Without prefix caching a preemption loses what was computed, and all of it is computed again.
        assert victim.num_computed_tokens == setback.preemption.lost_tokens == setback.recomputed_tokens
        computed = [candidate.num_computed_tokens for candidate in decision.candidates]
        assert victim.num_computed_tokens == min(computed)


def test_a_scrape_is_small_and_its_names_stay(served: Served) -> None:
    with urllib.request.urlopen(served.metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) < 80  # nothing is labeled by request, however many there were
    assert not any("cmpl-" in sample for sample in samples)
