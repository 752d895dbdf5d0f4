"""The four environment variables that engines read; nothing else is read anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bidkv.policy import PolicySpecError, resolve

STRATEGY = "BIDKV_STRATEGY"
CONTROL_FILE = "BIDKV_CONTROL_FILE"
METRICS_PORT = "BIDKV_METRICS_PORT"
DECISION_LOG = "BIDKV_DECISION_LOG"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment asks for; None where a variable is unset or empty.

    Attributes:
        strategy: a policy as `bidkv.policy.resolve` reads it; None leaves the engine as it is.
        control_file: see `bidkv.control_file.ControlFile`.
        metrics_port: TCP port for Prometheus on the loopback address.
        decision_log: file to which decisions are appended as JSON lines.
    """

    strategy: str | None = None
    control_file: Path | None = None
    metrics_port: int | None = None
    decision_log: Path | None = None


def read_environment(environ: Mapping[str, str] = os.environ) -> Environment:
    """Read the four variables.

    Raises:
        ValueError: the port is not an integer in [1, 65535]; the message names the variable and its value.
    """
    values = {
        name: environ.get(name, "").strip() for name in (STRATEGY, CONTROL_FILE, METRICS_PORT, DECISION_LOG)
    }
    return Environment(
        strategy=values[STRATEGY] or None,
        control_file=Path(values[CONTROL_FILE]) if values[CONTROL_FILE] else None,
        metrics_port=_port(values[METRICS_PORT]) if values[METRICS_PORT] else None,
        decision_log=Path(values[DECISION_LOG]) if values[DECISION_LOG] else None,
    )


def read_strategy_environment() -> Environment | None:
    """Read the four variables of this process; None where no strategy is set.

    Raises:
        PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.
        ValueError: another of the variables makes no sense.
    """
    environment = read_environment()
    if environment.strategy is None:
        return None
    try:
        resolve(environment.strategy)
    except PolicySpecError as error:
        raise PolicySpecError(f"{STRATEGY}: {error}") from error
    return environment


def _port(text: str) -> int:
    # Length first: Python refuses to read integers of thousands of digits, with a message of its own.
    if len(text) <= 5 and text.isascii() and text.isdigit() and 1 <= int(text) <= 65535:
        return int(text)
    raise ValueError(f"{METRICS_PORT} must be an integer in [1, 65535], got {text[:80]!r}")
