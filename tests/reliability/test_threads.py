"""An engine runs in one thread while others scrape its metrics: nothing breaks, and no counter goes back."""

from __future__ import annotations

import threading
from dataclasses import replace
from urllib.request import urlopen

from tests.simulator.driver import CheckedRun, WatchedController
from tests.support import requests_of

from bidkv.observability.metrics import MetricsExporter
from bidkv.policy import resolve
from bidkv.simulator import EngineConfig
from bidkv.stability import QueueingConfig, QueueingController

CONFIG = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)
SCRAPERS = 3


def counters_in(text: str) -> dict[str, float]:
    """The counters of one scrape."""
    lines = [line.split() for line in text.splitlines() if line.startswith("bidkv_") and "{" not in line]
    return {name: float(value) for name, value in lines if name.endswith("_total")}


def test_scrapes_beside_a_running_engine() -> None:
    requests = requests_of(
        *[(5 + i % 7, 4 + i % 11) for i in range(400)], arrivals=[i * 0.7 for i in range(400)]
    )
    requests = [replace(request, agent_id=f"agent-{i % 300}") for i, request in enumerate(requests)]
    queueing = QueueingConfig(block_size=4, head_dim=8, num_kv_heads=1, num_layers=1, concurrency=6)
    control = WatchedController(
        resolve("fair"),
        time_budget_s=None,
        stability=QueueingController(queueing, clock=lambda: run.engine.now_s),
    )
    exporter = MetricsExporter(control, 0)
    assert exporter._server is not None
    url = f"http://127.0.0.1:{exporter._server[0].server_address[1]}/metrics"
    run = CheckedRun(requests, control, CONFIG)
    over = threading.Event()
    seen: list[list[dict[str, float]]] = [[] for _ in range(SCRAPERS)]

    def scrape(mine: list[dict[str, float]]) -> None:
        while not (over.is_set() and mine):
            with urlopen(url, timeout=30) as answer:
                mine.append(counters_in(answer.read().decode()))

    scrapers = [threading.Thread(target=scrape, args=(mine,)) for mine in seen]
    for thread in scrapers:
        thread.start()
    try:
        while run.coming or not run.engine.idle:
            if len(run.books.steps) % 17 == 3:
                control.disable()
            elif len(run.books.steps) % 17 == 9:
                control.enable()
            run.step()
    finally:
        over.set()
        for thread in scrapers:
            thread.join()
        with urlopen(url, timeout=30) as answer:
            last = counters_in(answer.read().decode())
        exporter.close()
    for mine in seen:
        for before, after in zip(mine, [*mine[1:], last], strict=True):
            assert before.keys() == after.keys()
            assert all(after[name] >= before[name] for name in before)
    assert last["bidkv_arrivals_total"] == last["bidkv_completions_total"] == len(requests)
    assert last["bidkv_steps_total"] == len(run.books.steps)
