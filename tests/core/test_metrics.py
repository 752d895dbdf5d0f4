"""The Prometheus exporter over a real controller, read back through a real scrape."""

from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bidkv.control import ControlCounters, Controller
from bidkv.observability.metrics import ADDRESS, MetricsExporter, MetricSource
from bidkv.policy import resolve
from bidkv.stability import QueueingController


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    with urlopen(f"http://{ADDRESS}:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture
def controller():
    return Controller(resolve("lcf"), stability=QueueingController())


def test_every_counter_gauge_and_queueing_figure_is_served(controller):
    port = free_port()
    exporter = MetricsExporter(controller, port, {"free_blocks": MetricSource("Free blocks.", lambda: 17)})
    try:
        assert exporter.serving
        controller.counters.decisions = 3
        controller.stability.compute_stability_state(10, 100)
        controller.on_decision_time(3e-5)
        first = scrape(port)
        controller.counters.decisions = 5
        second = scrape(port)
    finally:
        exporter.close()
    for name in ControlCounters().as_dict():
        assert f"bidkv_{name}_total" in first
    assert (first["bidkv_decisions_total"], second["bidkv_decisions_total"]) == (3, 5)
    assert first["bidkv_free_blocks"] == 17
    assert first["bidkv_decision_seconds_count"] == 1
    assert first["bidkv_policy_active"] == 1
    queueing = {name: value for name, value in first.items() if name.startswith("queueing_")}
    assert queueing == controller.stability.export_metrics()
    assert len(queueing) == 7


def test_the_state_of_the_switches_is_served(controller):
    port = free_port()
    exporter = MetricsExporter(controller, port)
    try:
        controller.disable()
        figures = scrape(port)
    finally:
        exporter.close()
    assert (figures["bidkv_policy_active"], figures["bidkv_killed"]) == (0, 1)
    assert figures["bidkv_kill_switch_activations_total"] == 1


def test_a_taken_port_is_one_warning_and_no_failure(controller, caplog):
    port = free_port()
    first = MetricsExporter(controller, port)
    try:
        second = MetricsExporter(Controller(resolve("lcf")), port)
        assert not second.serving
        second.close()
    finally:
        first.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(port) in caplog.text


def test_a_closed_exporter_frees_its_port(controller):
    port = free_port()
    MetricsExporter(controller, port).close()
    again = MetricsExporter(controller, port)
    assert again.serving
    again.close()
