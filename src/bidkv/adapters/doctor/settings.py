"""Examines the four environment variables: would an engine accept what each of them says?"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from bidkv.adapters.doctor.findings import Finding, Status
from bidkv.adapters.environment import CONTROL_FILE, DECISION_LOG, METRICS_PORT, STRATEGY
from bidkv.control_file import ControlFile
from bidkv.observability.prometheus_page import get_text
from bidkv.observability.samples import parse_samples
from bidkv.policy import resolve
from bidkv.protocol.policy import Policy

LOOPBACK = "127.0.0.1"
_LEAST_FREE_BYTES = 64 << 20
"""Free disk below which a decision log may soon be full: about a day of it on a busy server."""

_ANSWER_LIMIT_S = 1.0
"""Longest wait for whatever has the metrics port already: it may be no HTTP server at all."""


def examine_strategy(spec: str | None) -> tuple[Finding, Policy | None]:
    """Resolve the policy; None where it cannot run in a real engine."""
    if spec is None:
        return Finding(STRATEGY, Status.FAIL, "not set: engines keep their own rules"), None
    try:
        policy = resolve(spec)
    except ValueError as error:
        return Finding(STRATEGY, Status.FAIL, str(error)), None
    if policy.clairvoyant:
        text = f"{spec!r} reads true output lengths, which only the simulator knows: choose another policy"
        return Finding(STRATEGY, Status.FAIL, text), None
    answers = [
        text
        for answered, text in (
            (policy.chooses_victims, "which request is preempted"),
            (policy.chooses_next, "which enters next"),
            (policy.keeps_reserve, "how much stays free"),
            (policy.drops_idle, "which session keeps its KV"),
        )
        if answered
    ]
    decides = f"decides {', '.join(answers)}" if answers else "leaves every decision to the engine"
    return Finding(STRATEGY, Status.OK, f"{spec!r} {decides}"), policy


def examine_sessions(policy: Policy, engines: Collection[str]) -> list[Finding]:
    """Say how the engines learn which requests belong together; nothing for a policy that drops no session.

    Args:
        policy: in charge.
        engines: those that are installed, by name.
    """
    if not policy.drops_idle:
        return []
    findings = []
    if "vllm" in engines:
        text = (
            "vLLM: told by bidkv_session_id in vllm_xargs or by vLLM's own session_id, else found by the "
            "past that a request repeats; needs prefix caching, one group of KV cache, and no KV connector "
            "between engines"
        )
        findings.append(Finding("sessions", Status.OK, text))
    if "sglang" in engines:
        text = (
            "SGLang: told by bidkv_session_id in custom_params or by SGLang's own session_id, else found by "
            "the past that a request repeats; needs --page-size 16 or more and the prefix tree written in "
            "Python (SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND=python or --enable-session-radix-cache)"
        )
        findings.append(Finding("sessions", Status.OK, text))
    return findings


def examine_metrics(port: int) -> Finding:
    """Examine whether the port is free and the exporter is installed."""
    if find_spec("prometheus_client") is None:
        return Finding(
            "metrics", Status.FAIL, "prometheus-client is missing: install bidkv's [metrics] extra"
        )
    with socket.socket() as probe:
        # The server sets it too, so a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            text = f"{LOOPBACK}:{port} cannot be opened: {error.strerror}{_describe_server(port)}"
            return Finding(METRICS_PORT, Status.FAIL, text)
    return Finding(METRICS_PORT, Status.OK, f"{LOOPBACK}:{port} is free")


def _describe_server(port: int) -> str:
    """Return what a server with a policy that already has the port says of its sessions; "" for any other."""
    try:
        page = get_text(f"http://{LOOPBACK}:{port}/metrics", timeout_s=_ANSWER_LIMIT_S)
        samples = parse_samples([page], 0.0)
    except (OSError, ValueError):
        return ""
    told, found = samples.get("bidkv_turns_told_total"), samples.get("bidkv_turns_found_total")
    if told is None or found is None:
        return ""
    policy = samples.labels.get("bidkv_policy_active", {}).get("policy", "?")
    return f"; a server with {policy} has it: {told:.0f} turns told by clients, {found:.0f} found by prefix"


def examine_control_file(path: Path) -> tuple[Finding, str | None]:
    """Examine whether an engine would read the file; return the command it holds, or None, as well."""
    try:
        command = ControlFile(path).read_changed()
    except FileNotFoundError:
        if not path.parent.is_dir():
            text = f"its folder {path.parent} does not exist: no command could be written"
            return Finding(CONTROL_FILE, Status.FAIL, text), None
        return Finding(CONTROL_FILE, Status.OK, f"{path} does not exist yet and commands nothing"), None
    except (OSError, ValueError) as error:
        return Finding(CONTROL_FILE, Status.FAIL, f"{path} would be refused: {error}"), None
    if command is None:
        return Finding(CONTROL_FILE, Status.OK, f"{path} is empty and commands nothing"), None
    if command == "off":
        text = f"{path} says off: the engine's own rules would decide"
        return Finding(CONTROL_FILE, Status.FAIL, text), command
    if command != "on":
        try:
            resolve(command)
        except ValueError as error:
            text = f"{path}: the command would be ignored: {error}"
            return Finding(CONTROL_FILE, Status.FAIL, text), None
    return Finding(CONTROL_FILE, Status.OK, f"{path} says {command}"), command


def examine_decision_log(path: Path) -> Finding:
    """Examine whether an engine could write the log, and whether the disk has room."""
    folder = path.parent
    if not folder.is_dir():
        return Finding(DECISION_LOG, Status.FAIL, f"its folder {folder} does not exist")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return Finding(DECISION_LOG, Status.FAIL, f"{path} is not a regular file")
    if path.exists() and path.stat().st_uid != os.geteuid():
        return Finding(DECISION_LOG, Status.FAIL, f"user {path.stat().st_uid} owns {path}, not this user")
    if not os.access(path if path.exists() else folder, os.W_OK):
        return Finding(DECISION_LOG, Status.FAIL, f"{path} cannot be written by this user")
    room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < _LEAST_FREE_BYTES:
        text = f"only {free_bytes >> 20} MiB are free in {folder}; the log stops when the disk is full"
        return Finding(DECISION_LOG, Status.NOTE, text)
    return Finding(DECISION_LOG, Status.OK, f"{path} can be written")
