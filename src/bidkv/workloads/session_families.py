"""Named families of sessions for comparing policies, split into tuning and held-out seeds.

The seeds and their split are those of :mod:`bidkv.workloads.families`; `families.json` pins what every family
makes of them. No context of any family exceeds 32,768 tokens, except `long-contexts` with 120,000.

    >>> sessions = SESSION_FAMILIES["agents-20-turns"](n=5, seed=1)
    >>> len(sessions), sessions[0].turns[1].gap_kind
    (5, 'tool')
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from bidkv.protocol.sessions import Session
from bidkv.workloads.generators.generate import generate_sessions


@dataclass(frozen=True, slots=True)
class SessionFamily:
    """One kind of sessions; call it for sessions.

    Attributes:
        name: unique among all workloads.
        about: one line for people.
        generator: the session workload it is made by.
        params: parameters of that workload.
    """

    name: str
    about: str
    generator: str
    params: Mapping[str, float]

    def __call__(self, n: int, seed: int) -> list[Session]:
        """Return `n` sessions in the order in which they start; the same arguments give the same sessions.

        Raises:
            ValueError: n below 1, or a negative seed.
        """
        if n < 1 or seed < 0:
            raise ValueError(f"n must be at least 1 and seed at least 0, not {n!r} and {seed!r}")
        # Families made by one generator must not share sessions, or one lucky draw counts twice.
        own_seed = Random(f"{self.name}:{seed}").getrandbits(48)
        return list(generate_sessions(self.generator, n=n, seed=own_seed, **self.params))


def session_fingerprint(sessions: Iterable[Session]) -> str:
    """Return a short checksum of turns, lengths, gaps and shared content."""
    digest = hashlib.sha256()
    for session in sessions:
        turns = [
            (t.new_tokens, t.output_tokens, round(t.gap_s * 1000), t.hash_ids, t.kept_tokens)
            for t in session.turns
        ]
        digest.update(repr(turns).encode("ascii"))
    return digest.hexdigest()[:16]


# Lengths and gaps of tool loops on an 8B model with a window of 32,768 tokens, after the medians and spreads
# of the sessions recorded on an H100 (tests/data/sessions): content of their own, quick tools.
_LOOP = {
    "shared_tokens": 0,
    "group_tokens": 0,
    "groups": 1,
    "first_median": 6200.0,
    "first_sigma": 0.39,
    "new_median": 400.0,
    "new_sigma": 0.99,
    "output_median": 120.0,
    "output_sigma": 0.79,
    "tool_gap_median_s": 1.5,
    "tool_gap_sigma": 0.98,
    "max_gap_s": 60.0,
    "turns_sigma": 0.5,
}
# The defaults of AIPerf's `synthesize agentic-code`, with the token counts cut to a window of 28,000.
_AIPERF = {
    "turns_median": 1000.0,
    "turns_sigma": 0.01,
    "first_median": 2500.0,
    "first_sigma": 0.97,
    "new_median": 500.0,
    "new_sigma": 1.18,
    "output_median": 180.0,
    "output_sigma": 1.01,
    "tool_gap_median_s": 1.8,
    "tool_gap_sigma": 0.81,
    "human_share": 0.3,
    "human_gap_median_s": 25.0,
    "human_gap_sigma": 0.97,
    "max_gap_s": 3600.0,
    "gap_shrink": 0.8,
    "end_base": 0.02,
    "end_scale": 2.0,
}

_ALL = (
    SessionFamily("agents-8-turns", "tool loops of about 8 turns", "agents", {**_LOOP, "turns_median": 8.0}),
    SessionFamily(
        "agents-20-turns", "tool loops of about 20 turns", "agents", {**_LOOP, "turns_median": 20.0}
    ),
    SessionFamily(
        "agents-40-turns",
        "tool loops of about 40 short turns",
        "agents",
        {**_LOOP, "turns_median": 40.0, "new_median": 200.0, "output_median": 90.0},
    ),
    SessionFamily(
        "long-contexts",
        "tool loops over large repositories, contexts of up to 120,000 tokens",
        "agents",
        {
            **_LOOP,
            "turns_median": 20.0,
            "first_median": 30_000.0,
            "first_sigma": 0.6,
            "new_median": 1500.0,
            "max_context_tokens": 120_000,
        },
    ),
    SessionFamily(
        "slow-tools",
        "tool loops that wait 8 s for a tool at the median",
        "agents",
        {**_LOOP, "turns_median": 20.0, "tool_gap_median_s": 8.0, "max_gap_s": 300.0},
    ),
    SessionFamily("tracelab", "tool loops with TraceLab's turns and gaps", "agents", {}),
    SessionFamily(
        "agents-with-users",
        "tool loops whose user answers one turn in ten",
        "agents",
        {"human_share": 0.1},
    ),
    SessionFamily(
        "shared-prefixes",
        "tool loops behind long prefixes that groups of sessions share",
        "agents",
        {**_LOOP, "turns_median": 12.0, "shared_tokens": 4096, "group_tokens": 4096, "groups": 8}
        | {"first_median": 1500.0},
    ),
    SessionFamily(
        "compacting", "tool loops that rewrite a full context to a quarter", "agents", {"compact_to": 0.25}
    ),
    SessionFamily("agentic-code", "AIPerf's agentic-code sessions", "agents", _AIPERF),
    SessionFamily("chat", "people chatting, half a minute between turns", "chat-sessions", {}),
    SessionFamily("rollouts-single", "16 long samples of each prompt", "rollouts", {}),
    SessionFamily(
        "rollouts-tools",
        "8 samples of each prompt that call tools while they are trained",
        "rollouts",
        {"samples": 8, "mean_turns": 8.0, "output_median": 600.0, "max_output_tokens": 4096},
    ),
    SessionFamily(
        "agents-beside-requests",
        "tool loops beside single requests",
        "mixed-sessions",
        {**_LOOP, "turns_median": 12.0},
    ),
)

SESSION_FAMILIES: Mapping[str, SessionFamily] = MappingProxyType({family.name: family for family in _ALL})
