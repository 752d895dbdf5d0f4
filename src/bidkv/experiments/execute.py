"""The one loop that runs an experiment on any engine: the missing cells in order, each result saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from bidkv.experiments.driver import Done, Driver, EngineFacts, Task
from bidkv.experiments.plan import ExperimentCell, Shard
from bidkv.experiments.session_load import SessionLoad, fit_sessions, has_sessions, read_statements
from bidkv.experiments.store import Store
from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import leave_out_unfit

Say = Callable[[str], None]
"""Takes one line of progress at a time."""

WHOLE = Shard()


@dataclass(slots=True)
class Tally:
    """What one sitting did.

    Attributes:
        done: cells that have a result now.
        from_earlier: how many of those had one before.
        failed: cells of this sitting without a result, and why.
    """

    done: int = 0
    from_earlier: int = 0
    failed: list[tuple[ExperimentCell, str]] = field(default_factory=list)


def run_experiment(
    store: Store,
    driver: Driver,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
    *,
    shard: Shard = WHOLE,
) -> Tally:
    """Run what the experiment in `store`, or a share of it, still lacks.

    Args:
        store: the experiment's folder.
        driver: the engine, already entered.
        say: takes one line of progress at a time.
        clock: seconds, monotonic; for the time left.
        shard: which share of the groups is run here.

    Raises:
        DriverError: the engine cannot be driven at all.
        TraceError: a workload file is broken or was changed.
    """
    share = store.plan.share(shard)
    missing = _find_missing(store, share, driver, say)
    total = sum(map(len, share))
    tally = Tally(done=total - len(missing), from_earlier=total - len(missing))
    if tally.from_earlier:
        say(f"{tally.from_earlier} of {total} runs are done already")
    if not missing:
        return tally
    facts = driver.facts()
    progress = _Progress(total, len(missing), say, clock)
    for done in driver.run(_make_tasks(store, missing, facts, say)):
        if done.result is None:
            store.save_failure(done.cell, done.error)
            tally.failed.append((done.cell, done.error))
        else:
            done.result.notes["engine"] = facts.notes
            done.result.notes["position"] = done.cell.position
            store.save(done.cell, done.result)
            tally.done += 1
        progress.report(done)
    return tally


def _find_missing(
    store: Store, share: list[list[ExperimentCell]], driver: Driver, say: Say
) -> list[ExperimentCell]:
    missing: list[ExperimentCell] = []
    for cells in share:
        lacking = [cell for cell in cells if not store.has(cell)]
        if driver.one_sitting and 0 < len(lacking) < len(cells):
            say(f"{cells[0].group.group_id} was interrupted: run again as a whole, pairs belong together")
            for cell in cells:
                store.discard(cell)
            lacking = cells
        missing.extend(lacking)
    return missing


def _make_tasks(store: Store, cells: list[ExperimentCell], facts: EngineFacts, say: Say) -> Iterator[Task]:
    group = None
    requests: list[WorkloadRequest] = []
    sessions: SessionLoad | None = None
    for cell in cells:
        if cell.group != group:
            group = cell.group
            if has_sessions(group.load.workload, read_statements(store.plan)):
                sessions = _fit_sessions(store.sessions(group), facts, say)
            else:
                sessions, requests = None, _fit_requests(store.requests(group), facts, say)
        yield Task(cell, [] if sessions is not None else requests, sessions)


def _fit_sessions(load: SessionLoad, facts: EngineFacts, say: Say) -> SessionLoad:
    most_tokens = facts.usable_blocks * facts.block_size
    if facts.max_model_len is not None:
        most_tokens = min(most_tokens, facts.max_model_len)
    fitting = fit_sessions(load.sessions, most_tokens)
    if len(fitting) < len(load.sessions):
        say(f"left out {len(load.sessions) - len(fitting)} sessions with turns over {most_tokens} tokens")
    return replace(load, sessions=fitting)


def _fit_requests(requests: list[WorkloadRequest], facts: EngineFacts, say: Say) -> list[WorkloadRequest]:
    kept, report = leave_out_unfit(requests, facts.usable_blocks, facts.block_size)
    fitting = list(kept)
    if report.left_out:
        say(str(report))
    if facts.max_model_len is not None:
        short = [r for r in fitting if r.prompt_tokens + r.output_tokens <= facts.max_model_len]
        if len(short) < len(fitting):
            say(f"left out {len(fitting) - len(short)} requests over {facts.max_model_len} tokens")
        fitting = short
    return fitting


class _Progress:
    """Reports what is done and how long the rest takes at the pace of this sitting."""

    def __init__(self, total: int, missing: int, say: Say, clock: Callable[[], float]) -> None:
        self._total = total
        self._left = missing
        self._ran = 0
        self._say = say
        self._clock = clock
        self._started_s = clock()

    def report(self, done: Done) -> None:
        self._ran += 1
        self._left -= 1
        left_s = (self._clock() - self._started_s) / self._ran * self._left
        outcome = f"FAILED: {done.error}" if done.result is None else _describe_result(done)
        rest = f"; about {format_duration(left_s)} left" if self._left else ""
        self._say(f"[{self._total - self._left}/{self._total}] {done.cell}: {outcome}{rest}")


def _describe_result(done: Done) -> str:
    assert done.result is not None
    summary = done.result.summary()
    if summary["sessions"] is not None:
        sessions = summary["sessions"]
        return (
            f"{sessions['turns_per_s']:.2f} turns/s, {sessions['completed']} sessions completed "
            f"({format_duration(done.took_s)})"
        )
    mean_s = summary["e2e_s"]["mean"]
    mean = "nothing completed" if mean_s is None else f"e2e mean {mean_s:.2f} s"
    return f"{mean}, {summary['preemptions']} preemptions ({format_duration(done.took_s)})"


def format_duration(seconds: float) -> str:
    """Print a duration.

    >>> format_duration(0.4), format_duration(75), format_duration(7300)
    ('0.4 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
