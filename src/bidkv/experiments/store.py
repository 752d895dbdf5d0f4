"""An experiment's folder: the plan, the frozen requests, the results; whole after any interruption.

Layout: `manifest.json` (the plan), `workloads/` (frozen requests with checksums), `runs/` (one result per
cell), `failures/` (why a cell has no result yet), `logs/`. Every file is written beside its place and then
renamed, so a process that is killed at any point loses only the run it was in.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from bidkv.experiments.plan import ExperimentCell, ExperimentPlan, RunGroup
from bidkv.experiments.session_load import SessionLoad, make_session_load, read_statements
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult, decode, encode
from bidkv.results.files import write_output
from bidkv.workloads import freeze, load_frozen, manifest_path
from bidkv.workloads.resolver import make_requests, tokens_per_hash_id
from bidkv.workloads.session_families import session_fingerprint
from bidkv.workloads.traces import TraceError
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

_FOLDERS = ("workloads", "runs", "failures", "logs")


class StoreError(Exception):
    """The folder cannot take this experiment, or holds none; the message says why."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A finished cell and its result."""

    cell: ExperimentCell
    result: RunResult


class Store:
    """The folder of one experiment; `Store.create` to run it, `Store.open` to read it."""

    def __init__(self, folder: Path, plan: ExperimentPlan, lock: IO[bytes] | None) -> None:
        self.folder = folder
        self.plan = plan
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, plan: ExperimentPlan) -> Self:
        """Start an experiment in `folder`, or continue the same one; the folder is locked until `close`.

        Raises:
            StoreError: the folder is a file, holds another experiment, or another process works in it.
            OSError: it cannot be written.
        """
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder}: expected a folder for the experiment, found a file")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StoreError(f"{folder}: another process is running this experiment") from None
        manifest = folder / "manifest.json"
        if manifest.exists():
            try:
                _require_same(folder, _read_plan(manifest), plan)
            except StoreError:
                lock.close()
                raise
        for name in _FOLDERS:
            (folder / name).mkdir(exist_ok=True)
            # Only a killed process leaves these behind.
            for leftover in (folder / name).glob(".*"):
                leftover.unlink()
        write_output(manifest, json.dumps(plan.as_dict(), indent=2) + "\n")
        return cls(folder, plan, lock)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read an experiment, finished or not.

        Raises:
            StoreError: there is none in `folder`.
        """
        return cls(folder, _read_plan(folder / "manifest.json"), None)

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()

    @property
    def logs(self) -> Path:
        """Folder of the servers' and clients' logs."""
        return self.folder / "logs"

    def workload_path(self, group: RunGroup) -> Path:
        """Path of a group's frozen requests."""
        return self.folder / "workloads" / f"{group.group_id}.jsonl"

    def requests(self, group: RunGroup) -> list[WorkloadRequest]:
        """Return a group's requests: made and frozen the first time, later checked against their checksum.

        Raises:
            TraceError: the frozen file was changed, or the workload is a broken file.
            ValueError: no such workload.
        """
        path = self.workload_path(group)
        plan = self.plan
        if not manifest_path(path).exists():
            seed = plan.seed + group.repetition
            stated = read_statements(plan)
            made = make_requests(group.load.workload, plan.requests, group.load.rate_rps, seed, stated)
            chunk = tokens_per_hash_id(group.load.workload, stated) or HASH_CHUNK_TOKENS
            source = {"workload": group.load.workload, "rate_rps": group.load.rate_rps, "seed": seed}
            freeze(made, path, source=source, tokens_per_hash_id=chunk)
        return list(load_frozen(path)[1])

    def sessions(self, group: RunGroup) -> SessionLoad:
        """Return a group's sessions, made anew each time and checked against the checksum of the first time.

        Raises:
            TraceError: the workload makes other sessions now.
            ValueError: no such workload.
        """
        load = make_session_load(self.plan, group)
        checksum = session_fingerprint(load.sessions)
        path = self.folder / "workloads" / f"{group.group_id}.sessions.json"
        if not path.exists():
            write_output(path, json.dumps({"sessions": len(load.sessions), "fingerprint": checksum}) + "\n")
        try:
            known = json.loads(path.read_bytes())["fingerprint"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise TraceError(f"{path}: expected a JSON object with 'fingerprint' ({error!r:.80})") from error
        if known != checksum:
            raise TraceError(
                f"{path}: expected sessions of fingerprint {known}, the workload makes {checksum}"
            )
        return load

    def has(self, cell: ExperimentCell) -> bool:
        """Return whether the cell has a result."""
        return self._run_path(cell).exists()

    def save(self, cell: ExperimentCell, result: RunResult) -> None:
        """Keep a result; from now on the cell is done."""
        write_output(self._run_path(cell), encode(result))
        self._failure_path(cell).unlink(missing_ok=True)

    def save_failure(self, cell: ExperimentCell, error: str) -> None:
        """Keep the reason why a cell has no result; it is tried again next time."""
        write_output(
            self._failure_path(cell), json.dumps({"cell": str(cell), "error": error}, indent=2) + "\n"
        )

    def discard(self, cell: ExperimentCell) -> None:
        """Delete a result, because its group is run again as a whole."""
        self._run_path(cell).unlink(missing_ok=True)

    def runs(self) -> Iterator[StoredRun]:
        """Yield the finished cells in the order of the plan.

        Raises:
            SchemaError: a result file is broken.
        """
        for cell in self.plan.cells():
            path = self._run_path(cell)
            if path.exists():
                yield StoredRun(cell, decode(path.read_bytes(), str(path)))

    def failures(self) -> dict[ExperimentCell, str]:
        """Return the reasons why cells have no result.

        Raises:
            StoreError: a note of a failure is broken.
        """
        reasons = {}
        for cell in self.plan.cells():
            path = self._failure_path(cell)
            if path.exists():
                try:
                    reasons[cell] = str(json.loads(path.read_bytes())["error"])
                except (ValueError, LookupError, TypeError, RecursionError) as error:
                    raise StoreError(
                        f"{path}: expected a JSON object with 'error' ({error!r:.80})"
                    ) from error
        return reasons

    def _run_path(self, cell: ExperimentCell) -> Path:
        return self.folder / "runs" / f"{cell.cell_id}.json"

    def _failure_path(self, cell: ExperimentCell) -> Path:
        return self.folder / "failures" / f"{cell.cell_id}.json"


def _read_plan(path: Path) -> ExperimentPlan:
    try:
        return ExperimentPlan.from_dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise StoreError(f"{path.parent}: no experiment here ({error.strerror})") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: expected the manifest of an experiment ({str(error)[:200]})") from error


def _require_same(folder: Path, held: ExperimentPlan, asked: ExperimentPlan) -> None:
    before, now = json.loads(json.dumps(held.as_dict())), json.loads(json.dumps(asked.as_dict()))
    for name, value in now.items():
        if before[name] != value:
            raise StoreError(
                f"{folder}: holds another experiment: its {name} are {_short(before[name])}, asked for are "
                f"{_short(value)}; choose another --output-dir, or the same options to go on with it"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."
