"""Child processes: each in a group of its own, with its log in a file, ended when this process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
"""The address of every server that an experiment starts: no other machine reaches it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_STOP_S = 20.0
"""Seconds that a process has to end after SIGTERM."""

_KILL_S = 2.0
"""Seconds for which SIGKILL is repeated until the group is empty."""

_LOOK_S = 0.05


class ChildProcess:
    """A process and its descendants, stopped as a group by the group's id.

    Args:
        command: program and arguments.
        log: its output is appended to this file.
        environment: variables added to this process's own.
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
        """Id of the process and of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None when it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the whole group, by SIGTERM and then SIGKILL; only once, because the id may be reused later."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        self.wait(_STOP_S)
        # Some servers leave workers behind; no other process is in the group.
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
        """Send a signal to the group; False when no process is left in it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def find_free_port() -> int:
    """Return a TCP port of the loopback address that is not in use now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    # Runs between fork and exec. A runner that is killed outright cannot stop its server, so the kernel does.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
