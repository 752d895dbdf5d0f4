"""One real server during an experiment: started, healthy, switched between policies, observed, stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bidkv.adapters.environment import CONTROL_FILE, METRICS_PORT, STRATEGY
from bidkv.baselines import ENGINE_ORDER
from bidkv.experiments.collector import Reading, read_exporter
from bidkv.experiments.driver import EngineFacts, RunFailed
from bidkv.experiments.request_bodies import PATHS, Dialect, prepare
from bidkv.experiments.server_process import LOOPBACK, ChildProcess, find_free_port
from bidkv.observability.prometheus_page import get_text
from bidkv.policy import resolve
from bidkv.protocol.requests import WorkloadRequest

LOOK_S = 0.5
"""Seconds between two readings of a server: a timeline has a thousand points after eight minutes."""

_PATIENCE_S = 60.0
"""Longest wait in seconds for a policy to take over, and for a server to come to rest."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """How one engine's server is started and addressed.

    Attributes:
        engine: its name.
        command: without the port, which comes last as `--port N`.
        dialect: of its requests.
        model: its name in requests.
        vocabulary: token ids are below this.
        facts: reads the engine's facts from its base URL and the exporter's page.
        environment: variables added to this process's own.
        start_limit_s: longest time in seconds until it is healthy.
    """

    engine: str
    command: Sequence[str]
    dialect: Dialect
    model: str
    vocabulary: int
    facts: Callable[[str, Reading], EngineFacts]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_limit_s: float = 900.0


class ManagedServer:
    """Starts servers of one kind, at most one at a time.

    Args:
        spec: which server.
        logs: folder for its logs and its control file.
        say: takes one line at a time.
    """

    def __init__(self, spec: ServerSpec, logs: Path, say: Callable[[str], None]) -> None:
        self.spec = spec
        self._logs = logs
        self._say = say
        self._child: ChildProcess | None = None
        self._port = self._exporter_port = 0
        self._starts = 0
        self._control_file = logs / f"control-{os.getpid()}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether a server runs."""
        return self._child is not None and self._child.exit_code is None

    def ensure(self) -> None:
        """Start a server unless a healthy one runs.

        Raises:
            RunFailed: it ended or is not healthy in time; the message holds the end of its log.
        """
        if self.alive:
            return
        self.stop()
        self._starts += 1
        self._port, self._exporter_port = find_free_port(), find_free_port()
        environment = {
            **self.spec.environment,
            STRATEGY: ENGINE_ORDER,
            CONTROL_FILE: str(self._control_file),
            METRICS_PORT: str(self._exporter_port),
        }
        log = self._logs / f"{self.spec.engine}-{os.getpid()}-{self._starts}.log"
        self._say(f"starting {self.spec.engine} on port {self._port}; its log is {log}")
        child = self._child = ChildProcess([*self.spec.command, "--port", str(self._port)], log, environment)
        deadline_s = time.monotonic() + self.spec.start_limit_s
        while not self._healthy():
            if child.wait(LOOK_S) is not None:
                raise RunFailed(
                    f"the {self.spec.engine} server ended with exit code {child.exit_code}; the end of its "
                    f"log {log}:\n{child.last_lines()}"
                )
            if time.monotonic() > deadline_s:
                raise RunFailed(f"the server is not healthy after {self.spec.start_limit_s:g} s; see {log}")

    def stop(self) -> None:
        """Stop the server and its processes; nothing happens when there is none."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._control_file.unlink(missing_ok=True)

    def look(self) -> Reading:
        """Read the exporter.

        Raises:
            RunFailed: no answer; the message holds the end of the server's log.
        """
        try:
            return read_exporter(f"http://{LOOPBACK}:{self._exporter_port}/metrics")
        except (OSError, ValueError) as error:
            end = "" if self._child is None else f"; the end of its log:\n{self._child.last_lines()}"
            raise RunFailed(f"the server does not answer ({error}){end}") from error

    def switch(self, policy: str) -> None:
        """Put a fresh object of a policy in charge, by way of another one so that the change is visible.

        Raises:
            RunFailed: it is not in charge in time.
        """
        # The server reports a policy under the one spelling of its name, whatever the plan says.
        name = resolve(policy).name
        for step in ("lcf" if name == ENGINE_ORDER else ENGINE_ORDER, policy):
            expected = resolve(step).name
            beside = self._control_file.with_suffix(".new")
            beside.write_text(step)
            beside.chmod(0o600)
            beside.replace(self._control_file)
            deadline_s = time.monotonic() + _PATIENCE_S
            while not self.look().policies.get(expected, False):
                if time.monotonic() > deadline_s:
                    raise RunFailed(f"policy {step!r} is not in charge after {_PATIENCE_S:g} s")
                self._poke()

    def await_idle(self) -> Reading:
        """Wait until nothing runs and nothing waits.

        Raises:
            RunFailed: it does not come to rest.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        while not (reading := self.look()).idle:
            if time.monotonic() > deadline_s:
                raise RunFailed(f"the server is still busy after {_PATIENCE_S:g} s")
            time.sleep(LOOK_S)
        return reading

    def _poke(self) -> None:
        """Make the engine step, because it reads its control file when it steps."""
        spec = self.spec
        request = WorkloadRequest("poke", 0.0, 8, 2)
        body = prepare([request], spec.dialect, spec.model, spec.vocabulary, str(time.monotonic_ns()))[0].body
        try:
            get_text(self.url + PATHS[spec.dialect], body)
        except (OSError, ValueError) as error:
            raise RunFailed(f"the server refuses a request: {error}") from error

    def _healthy(self) -> bool:
        try:
            get_text(f"{self.url}/health")
            self.look()
        except (OSError, ValueError, RunFailed):
            return False
        return True
