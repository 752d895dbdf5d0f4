"""A fake engine server in a process of its own, stopped whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bidkv.experiments.server_process import ChildProcess, find_free_port
from bidkv.observability.prometheus_page import get_text

FAKE_SERVER = Path(__file__).with_name("fake_server.py")


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[Callable[..., str]]:
    pytest.importorskip("aiohttp", reason="needs the [experiments] extra")
    children: list[ChildProcess] = []

    def start(**options: object) -> str:
        port = find_free_port()
        words = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        command = [sys.executable, str(FAKE_SERVER), "--port", str(port), *words]
        child = ChildProcess(command, tmp_path / "server.log")
        children.append(child)
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                get_text(f"{url}/health")
            except OSError:
                assert child.wait(0.05) is None, child.last_lines()
            else:
                return url

    yield start
    for child in children:
        child.stop()
