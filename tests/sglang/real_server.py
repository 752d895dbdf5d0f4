"""A real server on a CPU in a process group of its own (a failing scheduler kills its parent)."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
START_LIMIT_S = 240
ANSWER_LIMIT_S = 120
FLAGS = shlex.split(
    "--device cpu --skip-tokenizer-init --attention-backend torch_native --sampling-backend pytorch "
    "--dtype float32 --mem-fraction-static 0.05 --max-total-tokens 256 --max-running-requests 8 "
    "--disable-cuda-graph --grammar-backend none --page-size 1 --schedule-conservativeness 0.0 "
    "--skip-server-warmup --log-level warning"
)


class Server:
    """Where it answers and what it writes."""

    def __init__(self, folder: Path, process: subprocess.Popen, port: int, metrics_port: int) -> None:
        self.process = process
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.folder = folder
        self.retractions_file = folder / "retractions.jsonl"
        self.decisions_file = folder / "decisions.jsonl"
        self.control_file = folder / "control"
        self.faults_file = folder / "faults.json"
        self.log: list[str] = []

    def generate(self, requests: list[dict]) -> list[dict]:
        body = {
            "rid": [request["rid"] for request in requests],
            "input_ids": [request["prompt"] for request in requests],
            "sampling_params": [request["parameters"] for request in requests],
        }
        return json.loads(self.post("/generate", body, ANSWER_LIMIT_S))

    def flush_cache(self) -> None:
        self.post("/flush_cache", {}, 30)

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

    def post(self, path: str, body: dict, limit_s: float) -> bytes:
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=limit_s) as answer:
            return answer.read()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.last_lines()
            try:
                with urllib.request.urlopen(self.base + "/model_info", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise AssertionError(f"no answer in {START_LIMIT_S} s:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """The end of what it printed."""
        return "".join(self.log[-60:])


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running(
    folder: Path,
    model: Path,
    strategy: str | None,
    *extra_flags: str,
    main: str = "serve_main.py",
    environment: Mapping[str, str] = {},
) -> Iterator[Server]:
    """Start a server and stop it at the end.

    Args:
        folder: made for what it writes.
        model: as `write_model` makes it.
        strategy: None leaves the plugin out.
        extra_flags: of SGLang.
        main: the script beside this file that starts it.
        environment: set on top of what every test wants.
    """
    folder.mkdir()
    port, metrics_port = free_ports(2)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BIDKV_")}
    variables |= {
        "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "4",  # or nothing would ever be retracted
        "SGLANG_RETRACT_DECODE_STEPS": "1",
        "RETRACTIONS_FILE": str(folder / "retractions.jsonl"),
        "FAULTS_REPORT": str(folder / "faults.json"),
        "OMP_NUM_THREADS": "1",
    }
    if strategy is not None:
        variables |= {
            "BIDKV_STRATEGY": strategy,
            "BIDKV_CONTROL_FILE": str(folder / "control"),
            "BIDKV_METRICS_PORT": str(metrics_port),
            "BIDKV_DECISION_LOG": str(folder / "decisions.jsonl"),
        }
    process = subprocess.Popen(
        [
            sys.executable,
            str(HERE / main),
            "--model-path",
            str(model),
            "--port",
            str(port),
            *FLAGS,
            *extra_flags,
        ],
        env=variables | environment,
        # Through a pipe: a server whose disk is full must still be able to say so.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    server = Server(folder, process, port, metrics_port)
    listener = threading.Thread(target=server.log.extend, args=(process.stdout,))
    listener.start()
    try:
        server.wait_until_it_answers()
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        listener.join()
        process.stdout.close()
