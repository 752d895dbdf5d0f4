"""An upper bound on the turns a second that any policy can reach with sessions, from memory and machine time.

    python -m bidkv.planning.session_bound agents-20-turns 20000

Every turn either finds its past cached, which holds memory through the gap before it, or computes it again,
which takes machine time. With x the share of each turn's past that is kept, R turns a second need

    R * mean(w + (1 - x) * lost) <= 1                 (machine seconds a second)
    R * mean(past * (service + x * gap)) <= memory    (token seconds a second)

The largest R is a linear program with two constraints: what saves most machine time for its token seconds is
kept first, until both bind. Every figure is on the optimistic side: the fixed time of a step is shared by as
many requests as fit the memory, a request is served as fast as alone, all gaps and lengths are known, nothing
waits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session


@dataclass(frozen=True, slots=True)
class SessionBound:
    """The bound and what it rests on.

    Attributes:
        turns_per_s: no policy reaches more in the long run.
        kept_share: share of the past tokens that the optimum keeps through their gaps.
        machine_s: machine seconds a turn at the optimum.
        binds_memory: whether memory binds; otherwise keeping everything is free and the machine alone binds.
    """

    turns_per_s: float
    kept_share: float
    machine_s: float
    binds_memory: bool


def bound_turns_per_s(
    sessions: Sequence[Session],
    profile: StepTimeProfile,
    *,
    memory_tokens: int,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
) -> SessionBound:
    """Return the upper bound for sessions like these, in the long run.

    Args:
        sessions: the workload; every turn counts alike.
        profile: the machine's step times.
        memory_tokens: tokens of KV that fit.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: token budget of a step.

    Raises:
        ValueError: no sessions, or no memory.
    """
    if not sessions or memory_tokens < 1:
        raise ValueError("expected at least one session and memory for at least one token")
    timed = profile.for_engine(max_num_seqs, max_num_batched_tokens)
    budget = max_num_batched_tokens
    machine_s = served = 0.0
    # (machine seconds that keeping saves, token seconds that it costs, past tokens), of every later turn.
    keepable: list[tuple[float, float, int]] = []
    turns = 0
    seen: set[int] = set()  # content of earlier sessions, which costs nothing here
    for session in sessions:
        past = 0
        for turn, prompt in zip(session.turns, session.prompt_lengths(), strict=True):
            kept = past if turn.kept_tokens is None else turn.kept_tokens
            context = prompt + turn.output_tokens
            alone_s = timed.step_s(0, 0.0, 1, context, 0)
            # The machine seconds that one more prefill token adds to a step that runs anyway.
            filled_s = timed.step_s(budget, budget * budget * 0.5, 1, context + budget, 1)
            token_s = max(0.0, filled_s - timed.step_s(0, 0.0, 1, context + budget, 0)) / budget
            together = max(1, min(max_num_seqs, memory_tokens // context))
            decode_s = timed.step_s(0, 0.0, together, together * context, 0) / together
            known = sum(1 for _ in takewhile(seen.__contains__, turn.hash_ids)) * session.chunk_tokens
            seen.update(turn.hash_ids)
            machine_s += max(0, prompt - kept - known) * token_s + turn.output_tokens * decode_s
            served += context * turn.output_tokens * alone_s
            if kept:
                keepable.append((kept * token_s, kept * turn.gap_s, kept))
                machine_s += kept * token_s
            past = context
            turns += 1
    keepable.sort(key=lambda item: -item[0] / item[1] if item[1] else -float("inf"))
    kept_tokens = 0.0
    binds_memory = False
    for saved_s, token_seconds, past in keepable:
        # Keep a share of this past: all of it, or as much as makes memory as scarce as the machine.
        slack = machine_s * memory_tokens - served
        share = min(1.0, max(0.0, slack / (token_seconds + saved_s * memory_tokens)))
        machine_s -= share * saved_s
        served += share * token_seconds
        kept_tokens += share * past
        if share < 1.0:
            binds_memory = True
            break
    needed_s = max(machine_s, served / memory_tokens)
    all_tokens = sum(past for _, _, past in keepable)
    return SessionBound(
        turns / needed_s, kept_tokens / all_tokens if all_tokens else 1.0, machine_s / turns, binds_memory
    )


def _main(family: str, blocks: str = "20000", profile: str = "h100-llama3.1-8b-traffic") -> None:
    """Print the bound for 500 sessions of a family."""
    from bidkv.profiles import load_profile
    from bidkv.workloads.session_families import SESSION_FAMILIES

    sessions = SESSION_FAMILIES[family](n=500, seed=1)
    bound = bound_turns_per_s(sessions, load_profile(profile), memory_tokens=int(blocks) * 16)
    binds = "memory binds" if bound.binds_memory else "the machine binds"
    print(
        f"{family}, {blocks} blocks: at most {bound.turns_per_s:.2f} turns/s, keeping "
        f"{bound.kept_share:.0%} of the past tokens through their gaps; {binds}"
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
