"""The real OpenAI server and AsyncLLM with streaming clients: same answers, metrics, kill switch in use."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.vllm.engine_child import requests

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

COUNT = 120
FLAGS = [
    *("--skip-tokenizer-init", "--enforce-eager", "--dtype", "float32", "--gpu-memory-utilization", "0.1"),
    *(
        "--block-size",
        "32",
        "--max-model-len",
        "1024",
        "--max-num-batched-tokens",
        "256",
        "--max-num-seqs",
        "16",
    ),
    *("--num-gpu-blocks-override", "60", "--no-enable-prefix-caching"),
]


class Server:
    """One server process, the files and ports through which it is reached."""

    def __init__(
        self, model: Path, folder: Path, *, flags: Sequence[str] = FLAGS, **environment: str
    ) -> None:
        self.model = model
        self._flags = flags
        self.control_file = folder / "control"
        self.log = folder / "server.log"
        self.port, self.metrics_port = free_ports(2)
        self._environment = os.environ | {
            "BIDKV_STRATEGY": "lcf",
            "BIDKV_CONTROL_FILE": str(self.control_file),
            "BIDKV_METRICS_PORT": str(self.metrics_port),
            **environment,
        }

    def start(self, limit_s: float = 240) -> None:
        """Start it and wait until it is healthy; fail when it is not within `limit_s`."""
        command = [
            sys.executable,
            "-m",
            "bidkv.experiments.vllm.serve",
            "--model",
            str(self.model),
            *self._flags,
        ]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._healthy, limit_s, lambda: self.log.read_text()[-3000:])

    def _healthy(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End the server and the processes it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)

    def metrics(self) -> dict[str, float]:
        """The adapter's metrics; the policy in charge is the label of `bidkv_policy_active`."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found: dict[str, float] = {}
        for sample in (sample for family in families for sample in family.samples):
            found[sample.name] = sample.value
            if sample.name == "bidkv_policy_active":
                found[f"policy {sample.labels['policy']}"] = sample.value
        return found

    def command(self, text: str) -> None:
        """Write the control file, as its owner alone."""
        new = self.control_file.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.replace(self.control_file)

    async def serve_all(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> list[list[int]]:
        """Stream every request at once; `meanwhile` runs when a twentieth of the tokens have arrived."""
        made = requests(COUNT, shared_prefix=0)
        arrived = 0
        under_way = asyncio.Event()
        expected = sum(output for _, output, _ in made)

        async def one(session: aiohttp.ClientSession, prompt: list[int], output: int) -> list[int]:
            nonlocal arrived
            body = {
                "model": str(self.model),
                "prompt": prompt,
                "max_tokens": output,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "return_token_ids": True,
            }
            tokens: list[int] = []
            async with session.post(f"http://127.0.0.1:{self.port}/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                async for line in answer.content:
                    text = line.decode().strip().removeprefix("data: ")
                    if text and text != "[DONE]":
                        new = json.loads(text)["choices"][0]["token_ids"] or []
                        tokens += new
                        arrived += len(new)
                        if arrived >= expected / 20:
                            under_way.set()
            return tokens

        timeout = aiohttp.ClientTimeout(total=200)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = asyncio.gather(*(one(session, prompt, output) for prompt, output, _ in made))
            try:
                if meanwhile is not None:
                    await asyncio.wait_for(under_way.wait(), 200)
                    await meanwhile()
                return await clients
            finally:
                clients.cancel()
                await asyncio.gather(clients, return_exceptions=True)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_until(condition: Callable[[], bool], limit_s: float, why: Callable[[], str]) -> None:
    """Look until a condition holds; fail with `why` when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def answer_alone(model: Path, folder: Path) -> list[list[int]]:
    """Outputs of the engine alone with memory for everybody."""
    path = folder / "report.json"
    options = {"alone": {"num_blocks": 400, "count": COUNT, "attach": False, "shared_prefixes": [0]}}
    command = [sys.executable, "-m", "tests.vllm.engine_child", str(model), json.dumps(options), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs: list[list[int]] = json.loads(path.read_text())["alone"]["outputs"]["0"]
    return outputs


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    return answer_alone(model, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(model, tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.stop()


def test_streaming_clients_get_the_engines_own_answers_while_the_policy_preempts(server, expected):
    before = server.metrics()
    assert asyncio.run(server.serve_all()) == expected
    after = server.metrics()
    assert before["policy lcf"] == after["policy lcf"] == 1
    assert after["bidkv_completions_total"] - before["bidkv_completions_total"] == COUNT
    assert after["bidkv_preemptions_by_policy_total"] - before["bidkv_preemptions_by_policy_total"] >= 5
    assert after["bidkv_preemptions_by_engine_total"] == after["bidkv_failures_total"] == 0
    assert after["bidkv_decision_seconds_count"] == after["bidkv_decisions_total"]
    assert after["bidkv_free_blocks"] == after["bidkv_total_blocks"] == 59
    assert after["queueing_lambda"] > 0


def test_the_kill_switch_works_in_the_middle_of_load_and_back(server, expected):
    at_switch: dict[str, Any] = {}

    async def switch_off() -> None:
        server.command("off")
        deadline = time.monotonic() + 20
        while (figures := await asyncio.to_thread(server.metrics))["bidkv_policy_active"]:
            assert time.monotonic() < deadline, "the kill switch had no effect"
            await asyncio.sleep(0.05)
        at_switch.update(figures)

    assert asyncio.run(server.serve_all(switch_off)) == expected
    after = server.metrics()
    assert at_switch["bidkv_killed"] == 1
    assert after["bidkv_decisions_total"] == at_switch["bidkv_decisions_total"]
    # Later preemptions are the engine's own.
    assert after["bidkv_preemptions_by_engine_total"] > at_switch["bidkv_preemptions_by_engine_total"]

    async def switch_on() -> None:
        server.command("largest-first")

    assert asyncio.run(server.serve_all(switch_on)) == expected
    back = server.metrics()
    assert back["policy largest-first"] == 1
    assert back["bidkv_decisions_total"] > after["bidkv_decisions_total"]
    assert back["bidkv_failures_total"] == 0


def test_clients_that_hang_up_leave_nothing_behind(server):
    before = server.metrics()

    async def hang_up() -> None:
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        asyncio.run(server.serve_all(hang_up))
    # Connections cut off complain when they are collected; that must not happen inside a later test.
    gc.collect()

    def settled() -> bool:
        now = server.metrics()
        return now["bidkv_running_requests"] == now["bidkv_waiting_requests"] == 0

    wait_until(settled, 60, lambda: str(server.metrics()))
    after = server.metrics()
    assert after["bidkv_aborts_total"] > before["bidkv_aborts_total"]
    assert after["bidkv_free_blocks"] == 59
    assert after["bidkv_failures_total"] == 0


@pytest.mark.parametrize("strategy", ["no-such-policy", "lcf:depth=3"])
def test_a_strategy_that_does_not_exist_stops_the_server_at_once(model, strategy):
    done = subprocess.run(
        [sys.executable, "-m", "bidkv.experiments.vllm.serve", "--model", str(model)],
        env=os.environ | {"BIDKV_STRATEGY": strategy},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "BIDKV_STRATEGY" in done.stderr
    assert "Available: " in done.stderr or "options" in done.stderr
    assert "Traceback" not in done.stderr


def test_async_llm_loads_the_plugin_in_its_engine_process(model, expected, tmp_path):
    report, log = tmp_path / "report.json", tmp_path / "decisions.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.async_child", str(model), str(COUNT), str(report)],
        env=os.environ | {"BIDKV_STRATEGY": "bidkv", "BIDKV_DECISION_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(report.read_text()) == expected
    # The log is written by the process the engine runs in, so the adapter was there.
    assert len(log.read_text().splitlines()) >= 5
