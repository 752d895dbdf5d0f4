"""What deploy/ ships: rules and metrics pass promtool, the dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

prometheus_client = pytest.importorskip("prometheus_client", reason="needs the [metrics] extra")

from tests.served import check_dashboard  # noqa: E402
from tests.support import FakeEngine, FakeRequest  # noqa: E402

from bidkv.adapters.engine_metrics import HELP, make_engine_metrics  # noqa: E402
from bidkv.adapters.vllm.versions import is_supported  # noqa: E402
from bidkv.control import Controller  # noqa: E402
from bidkv.experiments.server_process import find_free_port  # noqa: E402
from bidkv.observability.metrics import MetricsExporter  # noqa: E402
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


def controller() -> Controller:
    sizes = QueueingConfig(block_size=16, head_dim=128, num_kv_heads=8, num_layers=32, concurrency=8)
    return Controller(resolve("fair"), time_budget_s=None, stability=QueueingController(sizes))


@contextmanager
def exporter(control: Controller) -> Iterator[MetricsExporter]:
    """The exporter with every metric that one of the engines has."""
    sources = make_engine_metrics(dict.fromkeys(HELP, lambda: 1.0))
    made = MetricsExporter(control, find_free_port(), sources)
    try:
        yield made
    finally:
        made.close()


def page_of(made: MetricsExporter) -> str:
    return str(prometheus_client.generate_latest(made.registry).decode())


def exposition() -> str:
    with exporter(controller()) as made:
        return page_of(made)


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


def test_the_page_says_how_many_queries_there_are() -> None:
    script = check_dashboard()
    text = (DEPLOY.parent / "docs/guide/operations.md").read_text(encoding="utf-8")
    for engine, name in (("vllm", "vLLM"), ("sglang", "SGLang")):
        count = len([*script.dashboard_queries(engine, ".*", "20s"), *script.alert_queries()])
        assert f"{count} of {count} with {name}" in text


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


def test_ten_thousand_requests_add_no_series() -> None:
    """Each with an id, a length and an agent of its own; every tenth is preempted."""
    control, engine = controller(), FakeEngine(running=[FakeRequest("stays")], free_blocks=1)

    def serve(number: int) -> None:
        request = FakeRequest(f"cmpl-{number}", num_prompt_tokens=1 + number, agent_id=f"agent-{number}")
        engine.now_s += 0.01
        control.on_arrival(request, engine)
        engine.running.append(request)
        control.on_admit(request, engine)
        if number % 10 == 0:
            (victim,) = control.before_step(engine)
            control.on_preempt(victim, victim.num_computed_tokens, engine)
            control.on_admit(victim, engine)
        engine.running.remove(request)
        control.on_finish(request, engine, completed=True)

    with exporter(control) as made:

        def series() -> set[str]:
            assert control.stability is not None
            control.stability.compute_stability_state(engine.free_blocks, engine.num_blocks)
            return {line.rpartition(" ")[0] for line in page_of(made).splitlines() if line[:1] != "#"}

        serve(0)
        after_one = series()
        for number in range(1, 10_000):
            serve(number)
        after_all = series()
    assert control.counters.completions == 10_000
    assert control.counters.decisions == control.counters.preemptions_by_policy == 1_000
    assert after_all == after_one
    assert len(after_all) < 80
