"""Sessions as the load of a run: which ones, when they start, and how they travel to the load generator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bidkv.experiments.plan import ExperimentPlan, RunGroup
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.results.files import atomic_file
from bidkv.workloads.resolver import make_sessions as generate
from bidkv.workloads.resolver import resolve_workload
from bidkv.workloads.traces import TraceOptions, open_trace, read_sessions


@dataclass(frozen=True, slots=True)
class SessionLoad:
    """The sessions of one run.

    Attributes:
        sessions: in the order in which they start.
        arrivals: when they start.
        duration_s: the run is cut after this many seconds; None: it lasts until all sessions have ended.
        told: whether clients name the session of a request, and its end.
        endpoint: "completions" sends token ids; "chat" sends messages, so that the server's chat template
            decides which parts of the past the model sees.
    """

    sessions: Sequence[Session]
    arrivals: SessionArrivals
    duration_s: float | None = None
    told: bool = True
    endpoint: str = "completions"


def read_statements(plan: ExperimentPlan) -> TraceOptions:
    """Return what the plan states about its files.

    Raises:
        ValueError: of a plan that was edited by hand.
    """
    return TraceOptions.from_statements(plan.options.get("trace_options", {}))


def has_sessions(workload: str, options: TraceOptions | None = None) -> bool:
    """Return whether a workload is sessions, not single requests.

    Raises:
        ValueError: no such workload.
        TraceError: a file that is not a trace.
    """
    found = resolve_workload(workload)
    if found.has_sessions is not None:
        return found.has_sessions
    return open_trace(found.name, options=options).has_sessions


def make_sessions(workload: str, n: int, seed: int, stated: TraceOptions | None = None) -> list[Session]:
    """Return the first `n` sessions of a workload; a file always gives its own, whatever the seed.

    Raises:
        ValueError: no such workload, or an argument out of range.
        TraceError: a file without sessions.
    """
    found = resolve_workload(workload)
    if found.is_generated:
        return generate(found, n, seed)
    return read_sessions(found.name, limit=n, options=stated)


def make_session_load(plan: ExperimentPlan, group: RunGroup) -> SessionLoad:
    """Return the sessions of a group of runs: the same for every strategy, others in every repetition."""
    seed = plan.seed + group.repetition
    load, options = group.load, plan.options
    if load.concurrent:
        stagger_s = float(options.get("session_stagger_s", 0.0))
        arrivals = SessionArrivals.at_concurrency(load.concurrent, stagger_s=stagger_s)
    else:
        arrivals = SessionArrivals.at_rate(load.rate_rps, seed=seed)
    return SessionLoad(
        sessions=make_sessions(load.workload, plan.requests, seed, read_statements(plan)),
        arrivals=arrivals,
        duration_s=options.get("duration_s"),
        told=not options.get("untold", False),
        endpoint=str(options.get("endpoint", "completions")),
    )


def write_session_load(load: SessionLoad, path: Path) -> None:
    """Write a load as JSON lines: how it is applied, then one session per line."""
    with atomic_file(path) as file:
        head = {
            "arrivals": asdict(load.arrivals),
            "duration_s": load.duration_s,
            "told": load.told,
            "endpoint": load.endpoint,
        }
        for line in (head, *map(asdict, load.sessions)):
            file.write((json.dumps(line, separators=(",", ":")) + "\n").encode())


def read_session_load(path: Path) -> SessionLoad:
    """Read what :func:`write_session_load` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        try:
            head = json.loads(file.readline())
            arrivals = SessionArrivals(**head.pop("arrivals"))
            return SessionLoad(list(map(_read_session, file)), arrivals, **head)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: expected a load of sessions ({str(error)[:100]})") from error


def _read_session(line: bytes) -> Session:
    given: dict[str, Any] = json.loads(line)
    turns = tuple(Turn(**{**turn, "hash_ids": tuple(turn["hash_ids"])}) for turn in given.pop("turns"))
    return Session(turns=turns, **given)


def fit_sessions(sessions: Iterable[Session], most_tokens: int) -> list[Session]:
    """Return the sessions whose longest turn, its answer included, is at most `most_tokens` tokens long."""
    return [
        session
        for session in sessions
        if all(
            prompt + turn.output_tokens <= most_tokens
            for prompt, turn in zip(session.prompt_lengths(), session.turns, strict=True)
        )
    ]
