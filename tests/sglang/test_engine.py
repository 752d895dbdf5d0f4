"""The real server on a CPU under memory pressure: outputs, victims, completeness, with and without overlap.

Three servers are started one after another (a failing scheduler kills its parent, so each in a process group
of its own); policies change on the running server by the control file.
"""

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from tiny_model import VOCABULARY, write_model

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
START_LIMIT_S = 240
ANSWER_LIMIT_S = 120
FLAGS = shlex.split(
    "--device cpu --skip-tokenizer-init --attention-backend torch_native --sampling-backend pytorch "
    "--dtype float32 --mem-fraction-static 0.05 --max-total-tokens 256 --max-running-requests 8 "
    "--disable-cuda-graph --grammar-backend none --page-size 1 --schedule-conservativeness 0.0 "
    "--skip-server-warmup --log-level warning"
)


class _Server:
    def __init__(self, folder: Path, port: int, metrics_port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.retractions_file = folder / "retractions.jsonl"
        self.decisions_file = folder / "decisions.jsonl"
        self.control_file = folder / "control"

    def generate(self, requests: list[dict]) -> list[dict]:
        body = {
            "rid": [request["rid"] for request in requests],
            "input_ids": [request["prompt"] for request in requests],
            "sampling_params": [request["parameters"] for request in requests],
        }
        return json.loads(self._post("/generate", body, ANSWER_LIMIT_S))

    def flush_cache(self) -> None:
        self._post("/flush_cache", {}, 30)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            return answer.read().decode()

    def command(self, policy: str, shown_as: str) -> None:
        """Write the control file and wait until the server's metrics show the change."""
        self.control_file.write_text(policy)
        deadline = time.monotonic() + 30
        while shown_as not in self.metrics():
            assert time.monotonic() < deadline, f"{policy!r} did not take effect"
            time.sleep(0.1)

    def _post(self, path: str, body: dict, limit_s: float) -> bytes:
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=limit_s) as answer:
            return answer.read()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def _running(folder: Path, model: Path, strategy: str | None, *extra_flags: str):
    folder.mkdir()
    port, metrics_port = _free_ports(2)
    server = _Server(folder, port, metrics_port)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIDKV_")}
    environment |= {
        "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "4",  # or nothing would ever be retracted
        "SGLANG_RETRACT_DECODE_STEPS": "1",
        "RETRACTIONS_FILE": str(server.retractions_file),
        "OMP_NUM_THREADS": "1",
    }
    if strategy is not None:
        environment |= {
            "BIDKV_STRATEGY": strategy,
            "BIDKV_CONTROL_FILE": str(server.control_file),
            "BIDKV_METRICS_PORT": str(metrics_port),
            "BIDKV_DECISION_LOG": str(server.decisions_file),
        }
    command = [sys.executable, str(HERE / "serve_main.py"), "--model-path", str(model), "--port", str(port)]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [*command, *FLAGS, *extra_flags],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_until_it_answers(process, server, folder / "server.log")
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def _wait_until_it_answers(process, server: _Server, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(server.base + "/model_info", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(f"no answer in {START_LIMIT_S} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


def _requests(phase: str) -> list[dict]:
    rng = random.Random(3)
    requests = []
    for number in range(14):
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(10, 50))]
        parameters = {"max_new_tokens": rng.randrange(15, 60), "temperature": 0.0, "ignore_eos": True}
        deadline_ms = rng.choice([None, 1e3, 20e3])
        if deadline_ms is not None:
            parameters["custom_params"] = {"bidkv_deadline_ms": deadline_ms}
        requests.append({"rid": f"{phase}-{number}", "prompt": prompt, "parameters": parameters})
    return requests


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _answers(server: _Server, phase: str) -> tuple[list[list[int]], list[dict], list[dict]]:
    """Outputs, retractions and decision log of one phase; nothing may be aborted or cut short."""
    retractions, logged = len(_lines(server.retractions_file)), len(_lines(server.decisions_file))
    requests = _requests(phase)
    server.flush_cache()
    answers = server.generate(requests)
    assert [answer["meta_info"]["finish_reason"]["type"] for answer in answers] == ["length"] * len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert len(answer["output_ids"]) == request["parameters"]["max_new_tokens"]
    recorded = _lines(server.retractions_file)[retractions:]
    assert len(recorded) >= 4
    assert all(not record["aborted"] for record in recorded)
    return (
        [answer["output_ids"] for answer in answers],
        recorded,
        _lines(server.decisions_file)[logged:],
    )


def _named_and_gone(log: list[dict], policy: str) -> list[str]:
    """Victims in the order they went; each was the policy's next choice at that moment."""
    named: list[str] = []
    gone: list[str] = []
    asking = False
    for line in log:
        if line["kind"] == "decision":
            assert line["policy"] == policy
            # SGLang may need fewer than the policy named; the next shortage is decided anew.
            named = [*named, line["victim"]] if asking else [line["victim"]]
            asking = True
        elif line["kind"] == "preempt":
            assert (line["by"], line["request_id"]) == ("policy", named.pop(0))
            gone.append(line["request_id"])
            asking = False
    return gone


@pytest.fixture(scope="module")
def reference(tmp_path_factory, model) -> list[list[int]]:
    """Outputs of the server without the plugin, and the proof that it retracts by its own rule."""
    with _running(tmp_path_factory.mktemp("reference") / "server", model, None) as server:
        outputs, recorded, log = _answers(server, "reference")
    for record in recorded:
        assert record["retracted"] == record["upstream"][: len(record["retracted"])]
    assert log == []
    return outputs


@pytest.mark.parametrize(
    ("flags", "policies"),
    [
        pytest.param((), ("bidkv", "largest-first", "slack_aware", "sglang_default"), id="overlap"),
        pytest.param(
            ("--disable-overlap-schedule",), ("bidkv", "largest-first", "static-random"), id="plain"
        ),
    ],
)
def test_victims_are_the_policys_and_outputs_are_the_servers(tmp_path, model, reference, flags, policies):
    differed = 0
    with _running(tmp_path / "server", model, policies[0], *flags) as server:
        for policy in policies:
            if policy != policies[0]:
                server.command(policy, f'bidkv_policy_active{{policy="{policy}"}} 1.0')
            outputs, recorded, log = _answers(server, policy)
            assert outputs == reference
            assert _named_and_gone(log, policy) == [rid for record in recorded for rid in record["retracted"]]
            for record in recorded:
                upstream = record["upstream"][: len(record["retracted"])]
                differed += record["retracted"] != upstream
                assert policy != "sglang_default" or record["retracted"] == upstream
        server.command("off", "bidkv_killed 1.0")
        outputs, recorded, log = _answers(server, "off")
        assert outputs == reference
        assert not any(line["kind"] == "decision" for line in log)
        assert {line["by"] for line in log if line["kind"] == "preempt"} == {"engine"}
        for record in recorded:
            assert record["retracted"] == record["upstream"][: len(record["retracted"])]
        metrics = server.metrics()
    assert differed >= 5
    assert "bidkv_hooks_in_place 1.0" in metrics
    assert "bidkv_failures_total 0.0" in metrics


def test_two_tensor_parallel_ranks_retract_the_same_requests(tmp_path, model, monkeypatch):
    """Each rank decides alone, by a policy that reads the clock; both obey the control file in one pass."""
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    with _running(tmp_path / "server", model, "slack_aware", "--tp-size", "2") as server:
        _, recorded, log = _answers(server, "slack")
        named = _named_and_gone(log, "slack_aware")
        server.control_file.write_text("largest-first")  # an idle server hears of it with the next request
        _, recorded_later, log = _answers(server, "largest")
        named += _named_and_gone(log, "largest-first")
    gone = [rid for record in (*recorded, *recorded_later) for rid in record["retracted"]]
    # Both ranks write to the same file, whichever comes first; the log is the first rank's.
    assert sorted(gone) == sorted(2 * named)
    assert len(named) >= 8
