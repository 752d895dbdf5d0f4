"""Sessions: conversations of several turns, where the next turn waits for the previous answer.

A :class:`Session` states what a client does, not when a server sees it: only the first turn can have an
arrival time of its own, every later turn arrives its gap after the previous answer's last token. The same
objects drive the simulator and the load generator on real servers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

AT_ONCE = "at-once"
CONCURRENT = "concurrent"
OWN_TIMES = "own"
RATE = "rate"
ARRIVAL_KINDS = (RATE, CONCURRENT, AT_ONCE, OWN_TIMES)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a session: what the client adds, and the answer it gets.

    Attributes:
        new_tokens: tokens the client adds to the conversation in this turn, at least 1.
        output_tokens: tokens the answer really has, at least 1. Hidden from policies.
        gap_s: seconds from the previous answer's last token to this turn's arrival; 0 for the first turn.
        gap_kind: what fills the gap: "tool", "human", or "" when unknown.
        hash_ids: content ids of the leading chunks of the new tokens, `Session.chunk_tokens` each (the last
            one may be partial). Equal ids in equal positions after an equal past mean equal tokens, in other
            sessions too.
        max_tokens: the cap the client stated on the answer, or None.
        kept_tokens: the client rewrote its past, and only this many leading tokens of the previous context
            (prompt and answer) are kept. None keeps all of it.
    """

    new_tokens: int
    output_tokens: int
    gap_s: float = 0.0
    gap_kind: str = ""
    hash_ids: tuple[int, ...] = ()
    max_tokens: int | None = None
    kept_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise ValueError(f"new_tokens must be at least 1, not {self.new_tokens}")
        if self.output_tokens < 1:
            raise ValueError(f"output_tokens must be at least 1, not {self.output_tokens}")
        if not 0 <= self.gap_s < math.inf:
            raise ValueError(f"gap_s must be a finite number of seconds, at least 0, not {self.gap_s}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1 or None, not {self.max_tokens}")
        if self.kept_tokens is not None and self.kept_tokens < 0:
            raise ValueError(f"kept_tokens must be at least 0 or None, not {self.kept_tokens}")


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation: its turns in order, and when it starts.

    Attributes:
        session_id: unique within its workload. The request of turn `k` is called `f"{session_id}#{k}"`.
        turns: at least one, in order.
        start_s: arrival of the first turn in seconds since the start of the workload, or None when the
            arrival process decides (:class:`SessionArrivals`).
        agent_id: the agent that runs the session ("" when unknown).
        priority: of every turn; vLLM's sign: a lower number is more important.
        weight: relative worth of every turn; 1 is ordinary.
        chunk_tokens: tokens that one of a turn's `hash_ids` stands for.
    """

    session_id: str
    turns: tuple[Turn, ...]
    start_s: float | None = None
    agent_id: str = ""
    priority: int = 0
    weight: float = 1.0
    chunk_tokens: int = 512

    def __post_init__(self) -> None:
        where = f"session {self.session_id!r}"
        if not self.session_id:
            raise ValueError("session_id must not be empty")
        if not self.turns:
            raise ValueError(f"{where} must have at least one turn")
        if self.start_s is not None and not 0 <= self.start_s < math.inf:
            raise ValueError(f"{where}: start_s must be finite and at least 0, or None, not {self.start_s}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{where}: weight must be finite and above 0, not {self.weight}")
        if self.chunk_tokens < 1:
            raise ValueError(f"{where}: chunk_tokens must be at least 1, not {self.chunk_tokens}")
        if self.turns[0].gap_s:
            raise ValueError(f"{where}: the first turn follows no answer, so its gap_s must be 0")
        context = 0
        for number, turn in enumerate(self.turns):
            if len(turn.hash_ids) * self.chunk_tokens >= turn.new_tokens + self.chunk_tokens:
                raise ValueError(
                    f"{where}, turn {number}: {len(turn.hash_ids)} hash_ids of {self.chunk_tokens} tokens "
                    f"cover more than its {turn.new_tokens} new tokens"
                )
            if turn.kept_tokens is not None:
                if turn.kept_tokens > context:
                    raise ValueError(
                        f"{where}, turn {number}: kept_tokens must be at most the {context} tokens of the "
                        f"context before it, not {turn.kept_tokens}"
                    )
                context = turn.kept_tokens
            context += turn.new_tokens + turn.output_tokens

    def prompt_lengths(self) -> list[int]:
        """Prompt tokens of every turn: the past that is kept, answers included, and the new tokens."""
        lengths = []
        context = 0
        for turn in self.turns:
            if turn.kept_tokens is not None:
                context = turn.kept_tokens
            lengths.append(context + turn.new_tokens)
            context += turn.new_tokens + turn.output_tokens
        return lengths


@dataclass(frozen=True, slots=True)
class SessionArrivals:
    """When sessions start; make one with a class method.

    Attributes:
        kind: one of `ARRIVAL_KINDS`.
        rate: mean sessions a second (kind "rate").
        burstiness: shape of the Gamma gaps, as vLLM's benchmark defines it: 1 is a Poisson process, below 1
            is burstier (kind "rate").
        seed: of the arrival times (kind "rate").
        concurrent: sessions alive at once; each one that ends starts the next at once (kind "concurrent").
        stagger_s: seconds between the starts of the first `concurrent` sessions (kind "concurrent").
    """

    kind: str
    rate: float = 0.0
    burstiness: float = 1.0
    seed: int = 0
    concurrent: int = 0
    stagger_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ARRIVAL_KINDS:
            raise ValueError(
                f"the kind of session arrivals must be one of {', '.join(ARRIVAL_KINDS)}, not {self.kind!r}"
            )
        if self.kind == RATE and not 0 < self.rate < math.inf:
            raise ValueError(f"the session rate must be finite and above 0, not {self.rate}")
        if self.kind == RATE and not 0 < self.burstiness < math.inf:
            raise ValueError(f"burstiness must be finite and above 0, not {self.burstiness}")
        if self.kind == CONCURRENT and self.concurrent < 1:
            raise ValueError(f"the number of concurrent sessions must be at least 1, not {self.concurrent}")
        if not 0 <= self.stagger_s < math.inf:
            raise ValueError(f"stagger_s must be finite and at least 0, not {self.stagger_s}")

    @classmethod
    def at_rate(cls, rate: float, *, burstiness: float = 1.0, seed: int = 0) -> SessionArrivals:
        """Open arrivals: `rate` sessions a second, whatever the server does (Poisson, or Gamma gaps)."""
        return cls(RATE, rate=rate, burstiness=burstiness, seed=seed)

    @classmethod
    def at_concurrency(cls, concurrent: int, *, stagger_s: float = 0.0) -> SessionArrivals:
        """Closed arrivals: `concurrent` sessions at any time; each end starts the next in the list."""
        return cls(CONCURRENT, concurrent=concurrent, stagger_s=stagger_s)

    @classmethod
    def at_once(cls) -> SessionArrivals:
        """All sessions start at time 0 (rollouts, batch)."""
        return cls(AT_ONCE)

    @classmethod
    def at_own_times(cls) -> SessionArrivals:
        """Every session starts at its own `start_s`."""
        return cls(OWN_TIMES)

    def start_times(self, sessions: Sequence[Session]) -> list[float | None]:
        """The start of every session in seconds; None: it starts when an earlier one ends.

        Raises:
            ValueError: a session has no `start_s` and the arrivals are the sessions' own.
        """
        if self.kind == AT_ONCE:
            return [0.0] * len(sessions)
        if self.kind == CONCURRENT:
            return [k * self.stagger_s if k < self.concurrent else None for k in range(len(sessions))]
        if self.kind == OWN_TIMES:
            for session in sessions:
                if session.start_s is None:
                    raise ValueError(
                        f"session {session.session_id!r} has no start time: give a rate, a number of "
                        "concurrent sessions, or start all at once"
                    )
            return [session.start_s for session in sessions]
        chance = random.Random(self.seed)
        mean = 1.0 / (self.rate * self.burstiness)  # scale of a Gamma gap whose mean is 1 / rate
        now = 0.0
        times: list[float | None] = []
        for _ in sessions:
            now += chance.gammavariate(self.burstiness, mean)
            times.append(now)
        return times
