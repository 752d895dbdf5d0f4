"""What a scrape costs: `pytest benchmarks/test_metrics_bench.py --benchmark-only`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.test_decisions_bench import full_engine

from bidkv.experiments.runner.process import free_port
from bidkv.observability.metrics import MetricsExporter
from bidkv.policy import resolve
from bidkv.stability import QueueingConfig, QueueingController


@pytest.fixture
def address() -> Iterator[str]:
    """The page of a controller that has seen 10,000 requests."""
    control, engine = full_engine(resolve("fair"), 256, spare_blocks=0)
    control.stability = QueueingController(
        QueueingConfig(block_size=16, head_dim=128, num_kv_heads=8, num_layers=32, concurrency=256)
    )
    request = engine.running[0]
    for _ in range(10_000):
        engine.now_s += 0.01
        control.on_arrival(request, engine)
        control.on_admit(request, engine)
        control.on_finish(request, engine, completed=True)
    control.stability.compute_stability_state(engine.free_blocks, engine.num_blocks)
    port = free_port()
    exporter = MetricsExporter(control, port)
    assert exporter.serving
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
