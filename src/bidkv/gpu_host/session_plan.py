"""The plan of a session replay: which policy serves which sessions, in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

_MOST = 10**9
"""Upper bound of every number in a plan; larger ones are slips."""


@dataclass(frozen=True, slots=True)
class SessionRun:
    """One run of the plan.

    Attributes:
        name: names its result file.
        workload: a session workload's name, or a file of sessions beside the plan.
        policy: the policy that decides, as `BIDKV_STRATEGY` names it.
        concurrent: sessions alive at once; each one that ends starts the next.
        sessions: most sessions taken from the workload.
        seed: of the workload.
        stagger_s: seconds between the starts of the first `concurrent` sessions.
        warm_up_s: seconds before the window in which figures are measured.
        window_s: seconds of that window; the run is cut at its end.
        blocks: KV blocks the run may use, the null block included; None: all the engine has.
        told: whether the client names each request's session, and its end. Otherwise sessions are found by
            their prefixes.
        pair: runs with equal workload and pair are compared with each other.
    """

    name: str
    workload: str
    policy: str
    concurrent: int
    sessions: int = 1000
    seed: int = 0
    stagger_s: float = 0.2
    warm_up_s: float = 30.0
    window_s: float = 200.0
    blocks: int | None = None
    told: bool = True
    pair: int = 1

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the cut."""
        return self.warm_up_s + self.window_s


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "workload": (str,),
    "policy": (str,),
    "concurrent": (int,),
    "sessions": (int,),
    "seed": (int,),
    "stagger_s": (int, float),
    "warm_up_s": (int, float),
    "window_s": (int, float),
    "blocks": (int, type(None)),
    "told": (bool,),
    "pair": (int,),
}
_REQUIRED = tuple(field.name for field in fields(SessionRun) if field.default is MISSING)
_MAY_BE_ZERO = ("seed", "stagger_s", "warm_up_s")


def read_session_plan(file: Path) -> list[SessionRun]:
    """Read a JSON list of runs, each an object with the fields of :class:`SessionRun`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such list; the message names file, run and field.
    """
    try:
        plan = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON ({str(error)[:100]})") from error
    if not isinstance(plan, list) or not plan:
        raise ValueError(f"{file}: expected a list of runs")
    runs = [_read_run(f"{file}, run {number}", spec) for number, spec in enumerate(plan)]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: expected different names, found {', '.join(names)[:200]}")
    return runs


def _read_run(where: str, spec: Any) -> SessionRun:
    if not isinstance(spec, dict):
        raise ValueError(f"{where}: expected an object, found {spec!r:.60}")
    missing = [field for field in _REQUIRED if field not in spec]
    unknown = [field for field in spec if field not in _KINDS]
    if missing or unknown:
        raise ValueError(
            f"{where}: expected the fields {', '.join(_REQUIRED)}, and of others only "
            f"{', '.join(field for field in _KINDS if field not in _REQUIRED)}; found {', '.join(spec)[:200]}"
        )
    for field, value in spec.items():
        good = type(value) in _KINDS[field]
        if good and type(value) in (int, float):
            good = 0 < value < _MOST or (value == 0 and field in _MAY_BE_ZERO)
        if not good or value == "" or (field == "name" and Path(value).name != value):
            raise ValueError(f"{where}, field {field!r}: found {value!r:.60}")
    return SessionRun(**spec)


def take_share(runs: Sequence[SessionRun], number: int, of: int) -> list[SessionRun]:
    """Return every `of`-th pair of runs from the `number`-th on (from 1): one GPU's share of a plan.

    Runs of a pair stay together, because only runs of one engine are compared.
    """
    pairs = list(dict.fromkeys((run.workload, run.pair) for run in runs))
    ours = set(pairs[number - 1 :: of])
    return [run for run in runs if (run.workload, run.pair) in ours]
