"""Half of the clients name their sessions, half do not: the `sessions` policy keeps its gain."""

from __future__ import annotations

from typing import Any

import pytest

from bidkv.control.sessions import SessionLedger
from bidkv.control.tracked_session import TrackedSession
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol import SessionArrivals
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate_sessions
from bidkv.workloads.session_families import SESSION_FAMILIES

_PROFILE = load_profile("h100-llama3.1-8b-async")
_CONFIG = EngineConfig(num_gpu_blocks=14_000, enable_prefix_caching=True, async_scheduling=True)


class _Nameless:
    """A request as it would be without the name of its session."""

    session_id = ""

    def __init__(self, request: Any) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def _run(name: str) -> RunResult:
    return simulate_sessions(
        SESSION_FAMILIES["agents-20-turns"](n=120, seed=3),
        SessionArrivals.at_concurrency(40, stagger_s=0.2),
        resolve(name),
        _CONFIG,
        _PROFILE,
        duration_s=400.0,
        tells_ends=False,
    )


def test_half_told_loses_little(monkeypatch: pytest.MonkeyPatch) -> None:
    own, told = (_run(name).summary()["sessions"]["turns_per_s"] for name in ("preempt-evict", "sessions"))
    find = SessionLedger._find_session
    named: dict[bool, int] = {True: 0, False: 0}

    def find_half(tracked: SessionLedger, request: Any, now_s: float) -> TrackedSession:
        is_named = sum(request.session_id.encode()) % 2 == 0
        named[is_named] += 1
        return find(tracked, request if is_named else _Nameless(request), now_s)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionLedger, "_find_session", find_half)
    result = _run("sessions")
    half = result.summary()["sessions"]["turns_per_s"]
    assert result.notes["control"]["failures"] == result.notes["control"]["session_failures"] == 0
    assert min(named.values()) > 0.3 * max(named.values())
    assert told > 1.4 * own
    assert half - own > 0.9 * (told - own)
