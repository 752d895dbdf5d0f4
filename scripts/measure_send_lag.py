"""Print how late the load generator sends at 20 requests a second, to a server that only streams.

Requests have 1,000 prompt tokens and 100 output tokens, in 50 chunks; 400 of them take 20 s.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bidkv.experiments.load_samples import read_samples
from bidkv.experiments.server_process import ChildProcess, find_free_port
from bidkv.observability.prometheus_page import get_text
from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces import write_mooncake

FAKE_SERVER = Path(__file__).parents[1] / "tests" / "experiments" / "fake_server.py"
RATE_RPS, REQUESTS = 20.0, 400


def main() -> None:
    with TemporaryDirectory() as folder:
        where, port = Path(folder), find_free_port()
        url = f"http://127.0.0.1:{port}"
        server = ChildProcess(
            [sys.executable, str(FAKE_SERVER), "--port", str(port), "--token-s", "0.005"],
            where / "server.log",
        )
        try:
            while True:
                try:
                    get_text(f"{url}/health")
                    break
                except OSError:
                    if server.wait(0.1) is not None:
                        raise
            requests = [WorkloadRequest(f"r{i}", i / RATE_RPS, 1000, 100) for i in range(REQUESTS)]
            write_mooncake(requests, where / "requests.jsonl")
            words = ["--url", url, "--dialect", "vllm", "--model", "fake", "--vocabulary", "1000"]
            words += ["--workload", str(where / "requests.jsonl"), "--output", str(where / "samples.jsonl")]
            subprocess.run([sys.executable, "-m", "bidkv.experiments.load_generator", *words], check=True)
            for name, value in read_samples(where / "samples.jsonl")[0].as_dict().items():
                print(f"{name}: {value}")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
