"""Examines the installed engines: do they find the plugin, and does its hook take effect?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from bidkv.adapters.doctor.findings import ANSWER, Finding, Status
from bidkv.adapters.environment import CONTROL_FILE, DECISION_LOG, METRICS_PORT, STRATEGY
from bidkv.adapters.server_setup import find_installed
from bidkv.adapters.sglang.server import PACKAGES as SGLANG_PACKAGES
from bidkv.adapters.vllm.server import PACKAGES as VLLM_PACKAGES
from bidkv.adapters.vllm.versions import SUPPORTED, is_newer, is_supported

PROBE_LIMIT_S = 300.0
"""An engine's first import on a cold disk takes a minute or two."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine and how it finds plugins.

    Attributes:
        name: its name on the command line.
        packages: distributions that hold it.
        group: entry-point group of its plugins.
        plugin: what this project's entry point in that group must lead to.
        filter: the engine's own variable that lists the plugins it may load.
    """

    name: str
    packages: tuple[str, ...]
    group: str
    plugin: str
    filter: str

    def installed(self) -> str | None:
        """Return "package version", or None."""
        return find_installed(self.packages)


ENGINES = {
    "vllm": Engine(
        "vllm",
        VLLM_PACKAGES,
        "vllm.general_plugins",
        "bidkv.adapters.vllm.plugin:register",
        "VLLM_PLUGINS",
    ),
    "sglang": Engine(
        "sglang",
        SGLANG_PACKAGES,
        "sglang.srt.plugins",
        "bidkv.adapters.sglang.plugin:register",
        "SGLANG_PLUGINS",
    ),
}


def examine_engine(
    engine: Engine, installed: str, strategy: str | None, environ: Mapping[str, str], *, try_hook: bool
) -> list[Finding]:
    """Look at one installed engine.

    Args:
        engine: which one.
        installed: "package version".
        strategy: the policy with which the hook is tried; None does not try it.
        environ: the environment a server would be started in.
        try_hook: import the engine in a process of its own and look at the hook.
    """
    findings = [_version(engine, installed), _entry_point(engine), *_filter(engine, environ)]
    if try_hook and strategy is not None and all(f.status is not Status.FAIL for f in findings):
        findings.append(_hook(engine, strategy, environ))
    return findings


def _version(engine: Engine, installed: str) -> Finding:
    number = installed.split()[-1]
    if engine.name == "vllm" and is_newer(number):
        return Finding(
            engine.name,
            Status.NOTE,
            f"{installed} is installed, newer than {SUPPORTED[-1]}, the newest that bidkv was tested on: "
            "it is used there if its self-test passes when the engine starts",
        )
    if engine.name == "vllm" and not is_supported(number):
        return Finding(
            engine.name,
            Status.FAIL,
            f"{installed} is installed; bidkv stays off there: "
            f"it was tested on {SUPPORTED[0]} to {SUPPORTED[-1]}",
        )
    return Finding(engine.name, Status.OK, f"{installed} is installed")


def _entry_point(engine: Engine) -> Finding:
    subject = f"{engine.name} plugin"
    values = [point.value for point in entry_points(group=engine.group, name="bidkv")]
    if not values:
        return Finding(
            subject,
            Status.FAIL,
            f"no entry point bidkv in {engine.group}: install bidkv into the engine's own environment "
            f"({sys.prefix})",
        )
    if set(values) != {engine.plugin}:
        return Finding(
            subject,
            Status.FAIL,
            f"entry point bidkv leads to {', '.join(sorted(set(values)))}, expected {engine.plugin}: "
            "reinstall bidkv",
        )
    return Finding(subject, Status.OK, f"entry point registered in {engine.group}")


def _filter(engine: Engine, environ: Mapping[str, str]) -> list[Finding]:
    allowed = environ.get(engine.filter)
    # An empty list means "none" to vLLM and "all" to SGLang.
    if allowed is None or (not allowed and engine.name == "sglang"):
        return []
    if "bidkv" in (name.strip() for name in allowed.split(",")):
        return []
    return [
        Finding(
            f"{engine.name} plugin",
            Status.FAIL,
            f"{engine.filter}={allowed!r} keeps the engine from loading bidkv: add bidkv to it or unset it",
        )
    ]


def _hook(engine: Engine, strategy: str, environ: Mapping[str, str]) -> Finding:
    subject = f"{engine.name} hook"
    quiet = {name: value for name, value in environ.items() if name not in _NOT_FOR_PROBE}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bidkv.adapters.doctor.probe", engine.name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_LIMIT_S,
            check=False,
            env={**os.environ, **quiet, STRATEGY: strategy},
        )
    except subprocess.TimeoutExpired:
        return Finding(subject, Status.FAIL, f"the engine could not be imported within {PROBE_LIMIT_S:.0f} s")
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            answer = json.loads(line.removeprefix(ANSWER))
            return Finding(subject, Status.OK if answer["in_place"] else Status.FAIL, answer["text"])
    lines = (done.stderr.strip() or "no output").splitlines()
    return Finding(
        subject, Status.FAIL, f"the engine cannot be imported (exit {done.returncode}): {lines[-1]}"
    )


_NOT_FOR_PROBE = frozenset({CONTROL_FILE, METRICS_PORT, DECISION_LOG})
