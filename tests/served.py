"""A real engine under steady load, a real Prometheus beside it: for the tests of what an operator sees."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from bidkv.experiments.server_process import ChildProcess, find_free_port
from bidkv.observability.explain import Setback, Story, stories
from bidkv.observability.log_reader import read_log
from bidkv.observability.prometheus_page import get_text
from bidkv.observability.timeline import trace_events

ROOT = Path(__file__).parents[1]
CLIENTS = 24
REQUEST_LIMIT_S = 120.0

Body = Callable[[int, int], dict[str, Any]]
"""A request's body, given the number of the client and of its request."""


class Served:
    """The engine, its clients, and Prometheus with the configuration that ships.

    Args:
        folder: for logs and data.
        command: starts the engine; the port comes last as `--port N`.
        environment: added to ours.
        path: where requests are posted.
        body: makes them.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], environment: Mapping[str, str], path: str, body: Body
    ) -> None:
        port, exporter, prometheus = find_free_port(), find_free_port(), find_free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{exporter}/metrics"
        self.prometheus_url = f"http://127.0.0.1:{prometheus}"
        self.log = folder / "decisions.jsonl"
        self.served = 0
        self._path, self._body = path, body
        self.engine_log = folder / "engine.log"
        self.engine = ChildProcess(
            [*command, "--port", str(port)],
            self.engine_log,
            {
                "BIDKV_STRATEGY": "fair",
                "BIDKV_METRICS_PORT": str(exporter),
                "BIDKV_DECISION_LOG": str(self.log),
                **environment,
            },
        )
        targets = {"127.0.0.1:8000": f"127.0.0.1:{port}", "127.0.0.1:9400": f"127.0.0.1:{exporter}"}
        self._prometheus = ChildProcess(
            [
                *("prometheus", f"--config.file={_configuration(folder, targets)}"),
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ],
            folder / "prometheus.log",
        )
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._clients = ThreadPoolExecutor(CLIENTS)

    def wait_for(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Look every half second; the engine's log explains a failure."""
        deadline_s = time.monotonic() + limit_s
        while not ready():
            assert self.engine.exit_code is None, self.engine.last_lines(40)
            assert time.monotonic() < deadline_s, f"{what} after {limit_s:g} s; {self.engine.last_lines(40)}"
            time.sleep(0.5)

    def start_load(self) -> None:
        """Wait until everything is up, then keep the engine short of memory until `rest`."""
        self.wait_for("the engine is not healthy", lambda: _answers(f"{self.url}/health"), 300)
        self.wait_for("Prometheus is not ready", lambda: _answers(f"{self.prometheus_url}/-/ready"), 60)
        for client in range(CLIENTS):
            self._clients.submit(self._one_client, client)

    def _one_client(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            post(self.url + self._path, self._body(client, number))
            with self._counting:
                self.served += 1

    def rest(self) -> None:
        """Let what runs finish."""
        self._stop.set()
        self._clients.shutdown()
        self.wait_for("requests still run", lambda: self.metrics()["bidkv_running_requests"] == 0, 120)

    def stop(self) -> None:
        """End everything."""
        self._stop.set()
        self._prometheus.stop()
        self.engine.stop()
        self._clients.shutdown()

    def metrics(self) -> dict[str, float]:
        """Every sample of both pages without its labels, summed."""
        found: dict[str, float] = {}
        for url in (self.metrics_url, f"{self.url}/metrics"):
            for line in get_text(url).splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    name = name.partition("{")[0]
                    found[name] = found.get(name, 0.0) + float(value)
        return found

    def all_queries_answered(self, engine: str) -> list[Any]:
        """Ask everything the dashboard and the alerts ask until all of it has data; return the answers."""
        asked: list[Any] = []

        def answered() -> bool:
            asked[:] = check_dashboard().check(self.prometheus_url, engine)
            return all(answer.series for answer in asked)

        try:
            self.wait_for("a query returns nothing", answered, 90)
        finally:
            print(*(f"{a.query.source}: {a.series} {a.sample} {a.error}" for a in asked), sep="\n")
        return asked

    def lint(self) -> str:
        """What promtool finds wrong with the policy's own page."""
        page = get_text(self.metrics_url)
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")

    def stories(self) -> dict[str, Story]:
        """What the decision log tells of every preempted request."""
        return stories(read_log(self.log))


def post(url: str, body: dict[str, Any]) -> None:
    """Post a request and read its answer; on a busy machine that takes its time."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S) as answer:
        answer.read()


def setbacks_of(told: Mapping[str, Story]) -> list[Setback]:
    """Every preemption in the log."""
    return [setback for story in told.values() for setback in story.setbacks]


def timeline_of(log: Path) -> tuple[int, int]:
    """Count the slices of running requests and the marks of preemptions in a log's trace."""
    events = list(trace_events(read_log(log)))
    assert sum(event["ph"] == "b" for event in events) == sum(event["ph"] == "e" for event in events) > 0
    marks = [event for event in events if event["ph"] == "i" and event["name"].startswith("preempt ")]
    return sum(event["ph"] == "X" for event in events), len(marks)


def check_dashboard() -> ModuleType:
    """The script that asks a Prometheus every query."""
    name = "check_dashboard"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts/check_dashboard.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _configuration(folder: Path, targets: Mapping[str, str]) -> Path:
    """The configuration that ships, with our ports and a look every second."""
    shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus")
    config = folder / "prometheus/prometheus.yml"
    text = config.read_text()
    for shipped, ours in targets.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    config.write_text(re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 1s", text))
    return config


def _answers(url: str) -> bool:
    try:
        get_text(url)
    except OSError:
        return False
    return True
