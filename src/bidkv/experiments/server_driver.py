"""Real servers behind the driver interface: another process applies the load, this one reads the server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from bidkv.control import ControlCounters
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import Done, DriverError, EngineFacts, RunFailed, Task
from bidkv.experiments.load_samples import DEFAULT_SEND_LAG_LIMIT_MS, LoadReport, make_records, read_samples
from bidkv.experiments.managed_server import LOOK_S, ManagedServer, ServerSpec
from bidkv.experiments.plan import policy_for_label
from bidkv.experiments.server_process import ChildProcess
from bidkv.experiments.session_load import SessionLoad, write_session_load
from bidkv.experiments.session_samples import SessionSamples, add_session_totals, read_session_samples
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint
from bidkv.workloads.traces import write_mooncake

_FAILURES_IN_A_ROW = 3
"""Consecutive failed runs after which the experiment stops."""

_WARMUP_TOKENS = 32
"""Most output tokens of a warm-up request."""


class SentLate(RunFailed):
    """The load was not applied as planned: the server is not at fault, but nothing was measured."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How load is applied.

    Attributes:
        warmup: number of requests before each run, not measured.
        drain_s: seconds to wait after the last request was due.
        send_lag_limit_ms: a run whose p99 of send lag is above this has no result.
        restart: a fresh server for each run.
    """

    warmup: int = 8
    drain_s: float = 300.0
    send_lag_limit_ms: float = DEFAULT_SEND_LAG_LIMIT_MS
    restart: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a client and the readings of the server say about one run."""

    report: LoadReport
    records: list[RequestRecord]
    ended_s: float
    readings: list[tuple[float, Reading]]
    sessions: SessionSamples | None = None


class ServerDriver:
    """Runs cells on a real server, one after another.

    One server serves all runs of a sitting and is told through its control file which policy decides, so that
    a pair of runs differs in nothing else; a server that failed is replaced.
    """

    one_sitting = True

    def __init__(
        self, spec: ServerSpec, logs: Path, settings: LoadSettings, say: Callable[[str], None]
    ) -> None:
        self._server = ManagedServer(spec, logs, say)
        self._logs = logs
        self._settings = settings
        self._block_size = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and its processes."""
        self._server.stop()

    def facts(self) -> EngineFacts:
        """Start the server and ask it for its facts."""
        try:
            self._server.ensure()
            facts = self._server.spec.facts(self._server.url, self._server.look())
        except (RunFailed, OSError) as error:
            raise DriverError(str(error)) from error
        self._block_size = facts.block_size
        return facts

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Run tasks in order; stops after several consecutive failures."""
        in_a_row = 0
        for task in tasks:
            started_s = time.monotonic()
            try:
                self._server.ensure()
                result = self._measure(task)
            except RunFailed as error:
                if not isinstance(error, SentLate):
                    self._server.stop()
                in_a_row += 1
                yield Done(task.cell, time.monotonic() - started_s, None, str(error))
                if in_a_row == _FAILURES_IN_A_ROW:
                    raise DriverError(f"{in_a_row} runs in a row failed; the last one: {error}") from error
                continue
            in_a_row = 0
            if self._settings.restart:
                self._server.stop()
            yield Done(task.cell, time.monotonic() - started_s, result)

    def _measure(self, task: Task) -> RunResult:
        cell = task.cell
        started_s = time.monotonic()
        self._server.switch(policy_for_label(cell.strategy))
        self._warm_up(task)
        before = self._server.await_idle()
        if task.sessions is not None:
            seen = self._apply_sessions(cell.cell_id, task.sessions)
        else:
            seen = self._apply_requests(cell.cell_id, task.requests)
        self._require_punctual(seen.report)
        after = self._server.await_idle()
        start_s, ended_s = seen.report.start_s, seen.ended_s
        timeline = _make_timeline([(start_s, before), *seen.readings], start_s, ended_s, before.preemptions)
        control = {name: after.count(name) - before.count(name) for name in ControlCounters().as_dict()}
        totals = EngineTotals(
            steps=control["steps"],
            scheduled_tokens=control["scheduled_tokens"],
            recomputed_tokens=control["recomputed_tokens"],
            preemptions=after.preemptions - before.preemptions,
            used_block_seconds=_block_seconds(timeline, ended_s),
            usable_blocks=after.count("total_blocks"),
            busy_s=max(ended_s - min((r.arrival_s for r in seen.records), default=0.0), 0.0),
        )
        notes = {"control": control, "load": seen.report.as_dict(), "per_request_preemptions": False}
        if seen.sessions is not None:
            notes["cut_s"] = ended_s
            totals = add_session_totals(totals, seen.sessions, self._block_size)
        return RunResult(
            strategy=cell.strategy,
            records=seen.records,
            totals=totals,
            simulated_s=ended_s,
            wall_s=time.monotonic() - started_s,
            timeline=timeline,
            notes=notes,
        )

    def _require_punctual(self, report: LoadReport) -> None:
        limit_ms, lag_ms = self._settings.send_lag_limit_ms, report.send_lag_p99_ms
        if lag_ms is None:
            raise RunFailed("no request could be sent")
        if lag_ms > limit_ms:
            raise SentLate(
                f"requests were sent late, p99 {lag_ms:.1f} ms, at most {limit_ms:g} ms is allowed: the "
                "machine is too busy to measure on (--send-lag-limit-ms)"
            )

    def _warm_up(self, task: Task) -> None:
        requests = task.requests
        if task.sessions is not None:
            requests = [
                WorkloadRequest(session.session_id, 0.0, session.turns[0].new_tokens, _WARMUP_TOKENS)
                for session in task.sessions.sessions[: self._settings.warmup]
            ]
        first = [
            replace(r, arrival_s=0.0, output_tokens=min(r.output_tokens, _WARMUP_TOKENS), max_tokens=None)
            for r in requests[: self._settings.warmup]
        ]
        if first:
            self._apply_requests(f"{task.cell.cell_id}-warmup", first)

    def _apply_requests(self, name: str, requests: Sequence[WorkloadRequest]) -> _Seen:
        workload = self._logs / f"{name}.requests.jsonl"
        write_mooncake(requests, workload)
        output, readings = self._generate_load(name, workload)
        report, samples = read_samples(output)
        ended_s = max((chunk[0] for s in samples for chunk in s.chunks[-1:]), default=0.0)
        return _Seen(report, make_records(requests, samples), ended_s, readings)

    def _apply_sessions(self, name: str, load: SessionLoad) -> _Seen:
        workload = self._logs / f"{name}.sessions.jsonl"
        write_session_load(load, workload)
        output, readings = self._generate_load(name, workload, "--sessions")
        samples = read_session_samples(output)
        records = [turn.make_record() for turn in samples.turns]
        return _Seen(samples.report, records, samples.cut_s, readings, samples)

    def _generate_load(
        self, name: str, workload: Path, *options: str
    ) -> tuple[Path, list[tuple[float, Reading]]]:
        """Apply load from a process of its own and read the server until it is done.

        Returns:
            The file that the process wrote, and the readings with their times.
        """
        spec = self._server.spec
        output = self._logs / f"{name}.samples.jsonl"
        output.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "bidkv.experiments.load_generator",
            "--url", self._server.url,
            "--dialect", spec.dialect,
            "--model", spec.model,
            "--vocabulary", str(spec.vocabulary),
            "--workload", str(workload),
            # Other tokens in every run: what is left in the prefix cache must not help the next one.
            "--salt", f"{name}:{time.time_ns()}",
            "--drain-s", str(self._settings.drain_s),
            "--output", str(output),
            *options,
        ]  # fmt: skip
        client = ChildProcess(command, self._logs / "client.log")
        readings = []
        try:
            while (code := client.wait(LOOK_S)) is None:
                readings.append((time.monotonic(), self._server.look()))
        finally:
            client.stop()
        if code != 0:
            raise RunFailed(f"the client ended with exit code {code}:\n{client.last_lines()}")
        return output, readings


def _make_timeline(
    readings: Sequence[tuple[float, Reading]], start_s: float, ended_s: float, preemptions_before: int
) -> list[TimelinePoint]:
    """Turn readings between the first arrival and the last token into points on the run's own clock."""
    return [
        reading.point(at_s - start_s, preemptions_before)
        for at_s, reading in readings
        if 0.0 <= at_s - start_s <= ended_s
    ]


def _block_seconds(timeline: Sequence[TimelinePoint], end_s: float) -> float:
    """Integrate used blocks over time; a point holds until the next one."""
    if not timeline:
        return 0.0
    area = sum(p.used_blocks * (q.time_s - p.time_s) for p, q in pairwise(timeline))
    return area + timeline[-1].used_blocks * max(end_s - timeline[-1].time_s, 0.0)
