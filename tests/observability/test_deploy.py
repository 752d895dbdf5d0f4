"""What deploy/ ships: rules and metrics pass promtool, the dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

prometheus_client = pytest.importorskip("prometheus_client", reason="needs the [metrics] extra")

from bidkv.adapters.vllm import service as vllm_service  # noqa: E402
from bidkv.adapters.vllm.plugin import is_supported  # noqa: E402
from bidkv.control import Controller  # noqa: E402
from bidkv.observability.metrics import ControllerCollector, Gauge  # noqa: E402
from bidkv.policy import resolve  # noqa: E402
from bidkv.stability import QueueingConfig, QueueingController  # noqa: E402

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/bidkv.json").read_text(encoding="utf-8"))


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("needs promtool: scripts/setup-prometheus.sh")
    return subprocess.run([tool, *arguments], input=text, capture_output=True, text=True, check=False)


def exposition(completions: int = 0) -> str:
    """The page of an exporter after so many requests."""
    sizes = QueueingConfig(block_size=16, head_dim=128, num_kv_heads=8, num_layers=32, concurrency=8)
    control = Controller(resolve("fair"), stability=QueueingController(sizes))
    control.counters.completions = completions
    source = Path(vllm_service.__file__).read_text(encoding="utf-8")
    names = re.findall(r'^ +"(\w+)": Gauge\(', source, re.MULTILINE)
    registry = prometheus_client.CollectorRegistry()
    registry.register(ControllerCollector(control, {name: Gauge("One.", lambda: 1.0) for name in names}))
    prometheus_client.Histogram("bidkv_decision_seconds", "Time.", registry=registry)
    return prometheus_client.generate_latest(registry).decode()


@pytest.mark.prometheus
def test_the_metrics_pass_promtool() -> None:
    done = promtool("check", "metrics", text=exposition())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.prometheus
def test_promtool_would_say_what_is_wrong() -> None:
    bad = "# HELP bidkv_thingTotal x\n# TYPE bidkv_thingTotal counter\nbidkv_thingTotal 1\n"
    assert promtool("check", "metrics", text=bad).returncode != 0


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_the_rules_pass_promtool(arguments: tuple[str, ...]) -> None:
    *words, file = arguments
    done = promtool(*words, str(DEPLOY / "prometheus" / file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    tests = (DEPLOY / "prometheus/alerts_test.yml").read_text(encoding="utf-8")
    for alert in re.findall(r"- alert: (\w+)", RULES):
        assert f"alertname: {alert} }}" in tests
        assert f'{{alertname="{alert}"}}' in tests


def test_dashboard_and_rules_ask_for_metrics_that_exist() -> None:
    known = {line.split()[0].partition("{")[0] for line in exposition().splitlines() if line[:1] != "#"}
    known |= set(re.findall(r"- record: (\S+)", RULES))
    expressions = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", ())]
    expressions += re.findall(r"expr: (.+)", RULES)
    assert len(expressions) > 50
    unquoted = " ".join(re.sub(r'"[^"]*"', "", expression) for expression in expressions)
    asked = set(re.findall(r"\b(?:bidkv|queueing|server:)\w*(?::\w+)*", unquoted))
    assert asked - {"server"} <= known
    assert {"queueing_lambda", "bidkv_breaker_open", "bidkv_floor_blocks", "bidkv_limit_cycle"} <= asked


def test_panels_are_laid_out_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_image_is_of_a_supported_version() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ARG VLLM_IMAGE=\S+:v(\S+)$", text, re.MULTILINE)
    assert is_supported(version)
    for path in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in path.split())


def test_nothing_is_labeled_by_request() -> None:
    assert len(exposition().splitlines()) == len(exposition(completions=10_000).splitlines())
