"""The one interface behind which every engine is driven, simulated or real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from bidkv.experiments.plan import ExperimentCell
from bidkv.experiments.session_load import SessionLoad
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult


class DriverError(Exception):
    """An engine cannot be driven at all: no model, no server, no capacity. The message says what to do."""


class RunFailed(Exception):
    """One run gave no result; the next one may."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a driver found out about its engine before the first run.

    Attributes:
        usable_blocks: KV blocks that requests can hold.
        block_size: tokens per block, as the engine really has it.
        max_model_len: longest prompt + output in tokens; None where only memory bounds it.
        notes: everything else worth keeping with the results, as JSON holds it.
    """

    usable_blocks: int
    block_size: int
    max_model_len: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A cell and its load.

    Attributes:
        cell: which run of the plan it is.
        requests: single requests; empty for sessions.
        sessions: sessions in closed loop; None for single requests.
    """

    cell: ExperimentCell
    requests: Sequence[WorkloadRequest]
    sessions: SessionLoad | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task: a result, or the reason why there is none."""

    cell: ExperimentCell
    took_s: float
    result: RunResult | None = None
    error: str = ""


class Driver(Protocol):
    """Drives one engine; a context manager that leaves no process behind.

    Attributes:
        one_sitting: whether runs are comparable only within one sitting. True for real engines: the machine
            is not the same an hour later, so a pair of runs must not be split over two sittings.
    """

    one_sitting: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def facts(self) -> EngineFacts:
        """Start the engine if need be and return what it is.

        Raises:
            DriverError: it cannot be started.
        """

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Run tasks, taken from the iterable as needed; yield what became of each, in any order."""
