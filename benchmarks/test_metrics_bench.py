"""What metrics cost, a scrape and in between: `pytest benchmarks/test_metrics_bench.py --benchmark-only`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.test_decisions_bench import full_engine

from bidkv.control import Controller
from bidkv.experiments.server_process import find_free_port
from bidkv.observability.metrics import MetricsExporter
from bidkv.policy import resolve
from bidkv.simulator import VllmStepEngine
from bidkv.stability import QueueingConfig, QueueingController

FEW, RUNNING = 32, 256


def watched(control: Controller, port: int) -> MetricsExporter:
    """Give a controller what an engine gives it with BIDKV_METRICS_PORT."""
    control.stability = QueueingController(
        QueueingConfig(block_size=16, head_dim=128, num_kv_heads=8, num_layers=32, concurrency=RUNNING)
    )
    exporter = MetricsExporter(control, port)
    assert exporter.serving
    return exporter


def serve_one(control: Controller, engine: VllmStepEngine) -> None:
    """Tell of one request, from its arrival to its end."""
    request = engine.running[0]
    engine.wait_until(engine.now_s + 0.01)
    control.on_arrival(request, engine)
    control.on_admit(request, engine)
    control.on_finish(request, engine, completed=True)


@pytest.fixture(params=[False, True], ids=["no metrics", "metrics"])
def observed(request: pytest.FixtureRequest) -> Iterator[tuple[Controller, VllmStepEngine]]:
    """An engine one block short, and its controller: few requests and a fast policy, so that little shows."""
    _, roomy = full_engine(resolve("lcf"), FEW, spare_blocks=0)
    short = roomy.block_demand(frozenset()) - 1
    control, engine = full_engine(resolve("lcf"), FEW, spare_blocks=short)
    exporter = watched(control, find_free_port()) if request.param else None
    yield control, engine
    if exporter is not None:
        exporter.close()


def test_a_decision(benchmark: Any, observed: tuple[Controller, VllmStepEngine]) -> None:
    control, engine = observed
    assert len(benchmark(lambda: control.before_step(engine))) == 1


def test_a_request(benchmark: Any, observed: tuple[Controller, VllmStepEngine]) -> None:
    control, engine = observed
    benchmark(lambda: serve_one(control, engine))
    assert control.counters.completions > 0


@pytest.fixture
def address() -> Iterator[str]:
    """The page of a controller that has seen 10,000 requests."""
    control, engine = full_engine(resolve("fair"), RUNNING, spare_blocks=0)
    port = find_free_port()
    exporter = watched(control, port)
    for _ in range(10_000):
        serve_one(control, engine)
    assert control.stability is not None
    control.stability.compute_stability_state(engine.free_blocks, engine.num_blocks)
    yield f"http://127.0.0.1:{port}/metrics"
    exporter.close()


def test_a_scrape(benchmark: Any, address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def scrape() -> bytes:
        with opener.open(address, timeout=10) as answer:
            page: bytes = answer.read()
            return page

    page = benchmark(scrape)
    assert b"bidkv_completions_total 10000.0" in page
    assert b"queueing_rho" in page
