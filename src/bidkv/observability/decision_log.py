"""A log of what a controller decided and what came of it: JSON lines, bounded, in files of their owner only.

docs/reference/decision-log.md describes every field.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from bidkv._version import __version__
from bidkv.observability.rotating import RotatingFile
from bidkv.protocol.observer import Decision
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView

logger = logging.getLogger("bidkv")

SCHEMA = 1
MOST_CANDIDATES = 64
"""Most candidates written for one decision, to bound a line; a decision among more states their number."""

_WAITS_EVERY_S = 1.0
_MOST_WAITS = 4
"""Once in so many seconds the log says of so many waiting turns, the longest waiting ones, why they wait."""

CANDIDATE_FIELDS = (
    "request_id",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "computed_tokens",
    "max_tokens",
    "preemptions",
    "held_blocks",
    "freed_blocks",
    "priority",
    "deadline_s",
    "weight",
)


class DecisionLog:
    """Writes what an :class:`~bidkv.protocol.observer.Observer` hears; one JSON object a line.

    A file that cannot be written (a full disk) is reported once, and the engine goes on without a log.

    Args:
        path: the newest file; older ones are `path.1`, `path.2`, ... (see :class:`RotatingFile`).
        file: written to instead of the file at `path`.
        wall_clock: seconds since 1970 for the first line of a file; None leaves it out, so that equal
            simulated runs write equal logs.
    """

    def __init__(
        self,
        path: Path,
        *,
        file: RotatingFile | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._file: RotatingFile | None = None
        self._policy: dict[str, Any] | None = None
        self._in_charge: Policy | None = None
        self._next_waits_s = 0.0
        self._policy_is_new = False
        try:
            self._file = file or RotatingFile(path)
        except OSError as error:
            self._give_up(error)

    # --- what happened -----------------------------------------------------------------------------
    def policy_changed(self, policy: Policy, *, active: bool, reason: str) -> None:
        """Remember the policy in charge; it is written before the next line."""
        self._policy = {
            "policy": str(policy.name),
            "rule": str(policy.victim_rule),
            "active": active,
            "reason": reason,
        }
        self._policy_is_new = True
        self._in_charge = policy if active else None

    def decided(self, decision: Decision, engine: EngineView) -> None:
        """Write a decision and its candidates."""
        if self._file is None:
            return
        shown = _shown(decision)
        terms = [decision.policy.victim_terms(request, engine) for request in shown]
        names = list(terms[0])
        self._write(
            "decision",
            engine,
            policy=str(decision.policy.name),
            need_blocks=decision.need_blocks,
            reserve_blocks=decision.reserve_blocks,
            took_us=round(decision.took_s * 1e6, 1) if self._wall_clock is not None else None,
            victim=None if decision.victim is None else decision.victim.request_id,
            own_choice=None if decision.engine_choice is None else decision.engine_choice.request_id,
            candidates_total=len(decision.candidates),
            terms=names,
            candidates=[
                [*_candidate(request, engine), *(_number(values[name]) for name in names)]
                for request, values in zip(shown, terms, strict=True)
            ],
        )

    def admitted(self, request: RequestView, cached_tokens: int, engine: EngineView) -> None:
        """Write an admission."""
        self._write(
            "admit",
            engine,
            request_id=request.request_id,
            arrival_s=_seconds(request.arrival_s),
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=request.num_output_tokens,
            preemptions=request.num_preemptions,
            cached_tokens=cached_tokens,
        )
        sessions = engine.sessions
        session = None if sessions is None or request.num_preemptions else sessions.session_for(request)
        # Before a second turn it is unknown whether a request without a named session belongs to one.
        if session is not None and (session.is_told or session.num_turns > 1):
            self._write(
                "turn",
                engine,
                session_id=session.session_id,
                request_id=request.request_id,
                turns=session.num_turns,
                waited_s=_seconds(engine.now_s - request.arrival_s),
                prompt_tokens=request.num_prompt_tokens,
                past_tokens=min(session.context_tokens, request.num_prompt_tokens),
                cached_tokens=cached_tokens,
            )
        self._tell_waits(engine)

    def preempted(
        self,
        request: RequestView,
        lost_tokens: int,
        recomputed_tokens: int,
        engine: EngineView,
        *,
        by_policy: bool,
    ) -> None:
        """Write a preemption."""
        self._write(
            "preempt",
            engine,
            request_id=request.request_id,
            by="policy" if by_policy else "engine",
            lost_tokens=lost_tokens,
            recomputed_tokens=recomputed_tokens,
            output_tokens=request.num_output_tokens,
        )

    def finished(
        self, request: RequestView, recomputed_tokens: int, engine: EngineView, *, completed: bool
    ) -> None:
        """Write how a request left."""
        self._write(
            "finish",
            engine,
            request_id=request.request_id,
            arrival_s=_seconds(request.arrival_s),
            completed=completed,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=request.num_output_tokens,
            preemptions=request.num_preemptions,
            recomputed_tokens=recomputed_tokens,
        )
        self._tell_waits(engine)

    def session_dropped(self, policy: Policy, session: SessionView, blocks: int, engine: EngineView) -> None:
        """Write which idle session loses how many of its cached blocks, and the policy's figures."""
        if self._file is None:
            return
        terms = policy.drop_terms(session, engine)
        idle_since_s = engine.now_s if session.idle_since_s is None else session.idle_since_s
        self._write(
            "drop",
            engine,
            session_id=session.session_id,
            turns=session.num_turns,
            idle_s=_seconds(engine.now_s - idle_since_s),
            context_tokens=session.context_tokens,
            exclusive_blocks=session.exclusive_blocks,
            dropped_blocks=blocks,
            why=", ".join(f"{name} {value:.4g}" for name, value in terms.items()),
        )

    def _tell_waits(self, engine: EngineView) -> None:
        """Write why turns wait; the engine's clock may jump back, and then it is due at once."""
        policy, sessions, now_s = self._in_charge, engine.sessions, engine.now_s
        if self._file is None or policy is None or sessions is None or not engine.num_waiting:
            return
        if self._next_waits_s - _WAITS_EVERY_S <= now_s < self._next_waits_s:
            return
        self._next_waits_s = now_s + _WAITS_EVERY_S
        for request in islice(engine.waiting(), _MOST_WAITS):
            session, why = sessions.session_for(request), policy.wait_reason(request, engine)
            if session is not None and why:
                self._write(
                    "wait",
                    engine,
                    session_id=session.session_id,
                    request_id=request.request_id,
                    waited_s=_seconds(now_s - request.arrival_s),
                    why=why,
                )

    def close(self) -> None:
        """Close the file; nothing more is logged."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- lines -------------------------------------------------------------------------------------
    def _write(self, kind: str, engine: EngineView, **fields: Any) -> None:
        file = self._file
        if file is None:
            return
        state = {
            "time_s": _seconds(engine.now_s),
            "step": engine.num_steps,
            "free_blocks": engine.free_blocks,
            "running": engine.num_running,
            "waiting": engine.num_waiting,
        }
        try:
            if file.is_new:
                # Every file of the series can be read alone.
                file.write(_line({"kind": "start", **self._start(engine), **state}))
                self._policy_is_new = True
            if self._policy_is_new and self._policy is not None:
                file.write(_line({"kind": "policy", **state, **self._policy}))
                self._policy_is_new = False
            file.write(_line({"kind": kind, **state, **fields}))
        except OSError as error:
            self._give_up(error)

    def _start(self, engine: EngineView) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "bidkv": __version__,
            "unix_s": None if self._wall_clock is None else round(self._wall_clock(), 3),
            "block_size": engine.block_size,
            "num_blocks": engine.num_blocks,
            "max_num_seqs": engine.max_num_seqs,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "prefix_caching": engine.prefix_caching,
            "candidate_fields": CANDIDATE_FIELDS,
        }

    def _give_up(self, error: OSError) -> None:
        logger.warning("bidkv: no decision log at %s from now on: %s", self._path, error)
        self.close()


def _shown(decision: Decision) -> Sequence[RequestView]:
    """Return all candidates; of too many, the victim, the engine's choice, and the last ones that fit."""
    candidates = decision.candidates
    if len(candidates) <= MOST_CANDIDATES:
        return candidates
    first = [request for request in (decision.victim, decision.engine_choice) if request is not None]
    chosen = {id(request) for request in islice(chain(first, reversed(candidates)), MOST_CANDIDATES)}
    return [request for request in candidates if id(request) in chosen]


def _candidate(request: RequestView, engine: EngineView) -> list[Any]:
    return [
        request.request_id,
        _seconds(request.arrival_s),
        request.num_prompt_tokens,
        request.num_output_tokens,
        request.num_computed_tokens,
        request.max_tokens,
        request.num_preemptions,
        request.num_held_blocks,
        engine.freed_blocks(request),
        request.priority,
        None if request.deadline_s is None else _seconds(request.deadline_s),
        request.weight,
    ]


def _seconds(value: float) -> float:
    return round(value, 6)


def _number(value: float) -> float | None:
    """Round to six digits, which is enough for an explanation; JSON has no infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
