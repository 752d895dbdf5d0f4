"""Processes we start: each in a group of its own, with its log in a file, gone when we are gone."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_STOP_S = 20.0
_KILL_S = 2.0
_LOOK_S = 0.05


class Child:
    """A process and whatever it starts; stopped as a group, by its own id.

    Args:
        command: program and arguments.
        log: takes its output; appended to.
        environment: added to ours.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self._stopped = False
        with log.open("ab") as output:
            output.write(f"$ {' '.join(command)}\n".encode())
            output.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None when it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the whole group: asked first, then forced; once, for later the id may be somebody else's."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        self.wait(_STOP_S)
        # Some servers leave workers behind; the group is theirs, and nobody else's.
        deadline_s = time.monotonic() + _KILL_S
        while self._signal(signal.SIGKILL) and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8000))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def _signal(self, number: int) -> bool:
        """Send to the group; False when nobody is left in it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    # Runs between fork and exec: a runner that is killed outright cannot stop its server any more.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
