"""Sessions as a planner sees them: their turns' lengths, and what a time of keeping saves and costs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

from bidkv.protocol.sessions import Session


@dataclass(frozen=True, slots=True)
class SessionTraffic:
    """Averages over sessions, tokens per session unless it says otherwise.

    Attributes:
        sessions: how many were averaged.
        turns: turns of a session.
        new_tokens: prompt tokens that no cache can hold, since they were never computed.
        output_tokens: of all answers.
        past_tokens: tokens of the pasts that later turns bring again.
        decode_context: context that a decoding turn holds beside shared content, weighted by its answer.
        whole_context: the same with shared content, which is held once but read by every turn.
        final_context: context at the end of a session, beside shared content.
        gaps_s: gaps between turns, in seconds, summed.
        shared_tokens: tokens of content that several sessions begin with, all of it together.
        first_prompt_tokens: prompt of the first turn.
    """

    sessions: int
    turns: float
    new_tokens: float
    output_tokens: float
    past_tokens: float
    decode_context: float
    whole_context: float
    final_context: float
    gaps_s: float
    shared_tokens: float
    first_prompt_tokens: float
    _gaps: tuple[float, ...] = field(repr=False)
    _context_sums: tuple[float, ...] = field(repr=False)
    _held_sums: tuple[float, ...] = field(repr=False)
    _past_sums: tuple[float, ...] = field(repr=False)

    @classmethod
    def of(cls, sessions: Sequence[Session]) -> SessionTraffic:
        """Measure sessions; what several of them begin with is counted once.

        Raises:
            ValueError: no sessions.
        """
        if not sessions:
            raise ValueError("expected at least one session")
        shared = shared_content(sessions)
        number = len(sessions)
        new = output = past_total = weighted = whole = final = gaps_s = first = turns = 0.0
        seen: set[int] = set()
        # (gap before the next turn, context that is held through it, past that the next turn brings again)
        idle: list[tuple[float, float, float]] = []
        for session in sessions:
            past = 0
            common = sum(1 for _ in takewhile(shared.__contains__, session.turns[0].hash_ids))
            common_tokens = common * session.chunk_tokens
            prompts = session.prompt_lengths()
            first += prompts[0]
            for index, (turn, prompt) in enumerate(zip(session.turns, prompts, strict=True)):
                kept = past if turn.kept_tokens is None else turn.kept_tokens
                known = sum(1 for _ in takewhile(seen.__contains__, turn.hash_ids)) * session.chunk_tokens
                seen.update(turn.hash_ids)
                if index:
                    held = max(past - common_tokens, 0)
                    idle.append((turn.gap_s, held, max(kept - common_tokens, 0)))
                    past_total += kept
                    gaps_s += turn.gap_s
                new += max(prompt - kept - known, 1)
                output += turn.output_tokens
                own = max(prompt - common_tokens, 0) + turn.output_tokens / 2
                weighted += own * turn.output_tokens
                whole += (prompt + turn.output_tokens / 2) * turn.output_tokens
                past = prompt + turn.output_tokens
                turns += 1
            final += max(past - common_tokens, 0)
        idle.sort()
        return cls(
            sessions=number,
            turns=turns / number,
            new_tokens=new / number,
            output_tokens=output / number,
            past_tokens=past_total / number,
            decode_context=weighted / output,
            whole_context=whole / output,
            final_context=final / number,
            gaps_s=gaps_s / number,
            shared_tokens=_tokens_of(sessions, shared),
            first_prompt_tokens=first / number,
            _gaps=tuple(gap for gap, _, _ in idle),
            _context_sums=_sums(held for _, held, _ in idle),
            _held_sums=_sums(gap * held for gap, held, _ in idle),
            _past_sums=_sums(past for _, _, past in idle),
        )

    def held_token_s(self, keep_s: float) -> float:
        """Token seconds for which a session's contexts are held between its turns, each at most `keep_s`."""
        shorter = bisect_left(self._gaps, keep_s)
        rest = self._context_sums[-1] - self._context_sums[shorter]
        return (
            (self._held_sums[shorter] + keep_s * rest) / self.sessions
            if rest
            else self._held_sums[-1] / (self.sessions)
        )

    def lost_tokens(self, keep_s: float) -> float:
        """Tokens of a session's pasts that are gone when their next turn comes, kept for `keep_s` each."""
        shorter = bisect_left(self._gaps, keep_s)
        return (self._past_sums[-1] - self._past_sums[shorter]) / self.sessions

    def computed_tokens(self, keep_s: float) -> float:
        """Prompt tokens computed for a session whose pasts are kept for `keep_s` seconds each."""
        return self.new_tokens + self.lost_tokens(keep_s)

    def cached_share(self, keep_s: float) -> float:
        """Share of all prompt tokens that is found in the cache, from 0 to 1, pasts kept for `keep_s`."""
        whole = self.new_tokens + self.past_tokens
        return 1.0 - self.computed_tokens(keep_s) / whole if whole else 0.0

    def gap_quantiles(self, number: int) -> list[float]:
        """Return `number` gaps in seconds at even steps of their order, each just above one that occurs."""
        if not self._gaps:
            return []
        last = len(self._gaps) - 1
        return [math.nextafter(self._gaps[last * k // number], math.inf) for k in range(1, number + 1)]


def _sums(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(accumulate(values, initial=0.0))


def shared_content(sessions: Sequence[Session]) -> set[int]:
    """Return the content ids that the first turns of several sessions hold."""
    counts = Counter(hash_id for session in sessions for hash_id in set(session.turns[0].hash_ids))
    return {hash_id for hash_id, count in counts.items() if count > 1}


def _tokens_of(sessions: Sequence[Session], shared: set[int]) -> float:
    sizes = {
        hash_id: session.chunk_tokens
        for session in sessions
        for hash_id in session.turns[0].hash_ids
        if hash_id in shared
    }
    return float(sum(sizes.values()))
