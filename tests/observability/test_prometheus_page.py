"""Fetching a page of a local server: what a server that goes away, or is none, is told as."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bidkv.observability.prometheus_page import get_text


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Listen on the loopback address; the first client gets `answer`, then the connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        thread.join(10.0)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nup 1"],
    ids=["before the answer", "in the middle of it"],
)
def test_a_server_that_goes_away_is_no_answer(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(OSError, match="the connection ended before the answer did"):
        get_text(url)


def test_a_server_that_speaks_something_else_is_named() -> None:
    with answering(b"SSH-2.0-nothing\r\n\r\n") as url, pytest.raises(ValueError, match="SSH-2"):
        get_text(url)
