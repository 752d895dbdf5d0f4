"""Several engines under one environment: each gets a metrics port and a decision log of its own.

Data parallelism runs one scheduler per replica, and one process may hold two engines. All of them read the
same four variables. They share the control file, which is only read; the port and the log are told apart by
the engine's number: its data-parallel rank, or the next free one where the process uses that number already.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from bidkv.adapters.environment import METRICS_PORT, Environment

logger = logging.getLogger("bidkv")

HIGHEST_PORT = 65535

_in_use: weakref.WeakKeyDictionary[Any, frozenset[tuple[object, int]]] = weakref.WeakKeyDictionary()
"""By live scheduler of this process: each port and file asked for, with the engine's number."""


def number_engine(scheduler: Any, environment: Environment, rank: int) -> tuple[Environment, int]:
    """Return what an engine of its rank uses of the environment, and its number.

    Number 0 has the port and the file as they are named. Number 2 has the port plus 2, and `log.rank2.jsonl`
    for `log.jsonl`.

    Args:
        scheduler: the engine's; while it lives, its number is taken in this process.
        environment: what the operator asks for.
        rank: data-parallel rank of the engine, from 0.
    """
    asked = [value for value in (environment.metrics_port, environment.decision_log) if value is not None]
    taken = {claim for claims in _in_use.values() for claim in claims}
    number = rank
    while any((value, number) in taken for value in asked):
        number += 1
    if asked:
        _in_use[scheduler] = frozenset((value, number) for value in asked)
    if number == 0:
        return environment, 0
    port = _shift_port(environment.metrics_port, number)
    log = None if environment.decision_log is None else name_log(environment.decision_log, number)
    if asked:
        logger.info("bidkv: engine %d has metrics port %s and decision log %s", number, port, log)
    return replace(environment, metrics_port=port, decision_log=log), number


def name_log(path: Path, number: int) -> Path:
    """Return the decision log of an engine by its number.

    >>> str(name_log(Path("decisions.jsonl"), 2)), str(name_log(Path("decisions.jsonl"), 0))
    ('decisions.rank2.jsonl', 'decisions.jsonl')
    """
    return path if number == 0 else path.with_name(f"{path.stem}.rank{number}{path.suffix}")


def _shift_port(port: int | None, number: int) -> int | None:
    if port is None or port + number <= HIGHEST_PORT:
        return None if port is None else port + number
    logger.warning(
        "bidkv: no metrics for engine %d: %s %d plus %d is not a port", number, METRICS_PORT, port, number
    )
    return None
