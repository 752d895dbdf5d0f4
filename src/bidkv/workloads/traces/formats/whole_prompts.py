"""Sessions whose turns are recorded as whole prompts: what of each was there before, and what is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport


@dataclass(frozen=True, slots=True)
class WholePrompt:
    """One recorded turn.

    Attributes:
        prompt: tokens of the whole prompt.
        output: tokens of the answer.
        arrival_s: when it arrived.
        end_s: when its answer was complete, or None when that is not recorded.
        hash_ids: of the whole prompt, () when they are not recorded.
        kept_at_least: leading tokens that are known to be those of the turn before, or None.
        gap_kind: what filled the time before it.
    """

    prompt: int
    output: int
    arrival_s: float
    end_s: float | None = None
    hash_ids: tuple[int, ...] = ()
    kept_at_least: int | None = None
    gap_kind: str = ""


def make_turns(
    prompts: Sequence[WholePrompt], chunk_tokens: int, options: TraceOptions, report: TraceReport
) -> tuple[Turn, ...]:
    """Return the turns of a session whose prompts are recorded whole.

    A prompt longer than the context before it (prompt and answer) keeps all of it. One that is longer than
    the prompt before keeps that prompt and drops the answer, or what templates drop of it. A shorter one was
    rewritten: it keeps the chunks that both have, where hash ids tell, or what is recorded as cached.
    Content is known of a first prompt only: where the new tokens of later ones start within a chunk, no id
    names what they hold.

    Args:
        prompts: of one session, in the order of its turns, at least one.
        chunk_tokens: prompt tokens that a hash id stands for.
        options: `answer_tokens_per_s` tells when an answer ended whose end is not recorded.
        report: takes what was doubtful.
    """
    turns = [Turn(prompts[0].prompt, prompts[0].output, hash_ids=prompts[0].hash_ids)]
    for before, now in pairwise(prompts):
        kept = _kept(before, now, chunk_tokens, report)
        context = before.prompt + before.output
        gap_s = _gap_s(before, now, options, report)
        new = now.prompt - (context if kept is None else kept)
        turns.append(Turn(new, now.output, gap_s, now.gap_kind, kept_tokens=kept))
        if now.hash_ids:
            report.note("content that later turns share with other sessions is taken as their own")
    return tuple(turns)


def _kept(before: WholePrompt, now: WholePrompt, chunk_tokens: int, report: TraceReport) -> int | None:
    context = before.prompt + before.output
    if before.hash_ids and now.hash_ids:
        pairs = zip(before.hash_ids, now.hash_ids, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if common < before.prompt // chunk_tokens:
            report.note("some clients rewrote their past: only the chunks that both prompts have are kept")
            return min(common * chunk_tokens, now.prompt - 1)
    if now.prompt > context:
        return None
    if now.prompt > before.prompt:
        report.note("some clients left out the previous answer, or a part of it")
        return before.prompt
    report.note("some prompts are shorter than the one before: their clients rewrote their past")
    return min(now.kept_at_least or 0, now.prompt - 1, context)


def _gap_s(before: WholePrompt, now: WholePrompt, options: TraceOptions, report: TraceReport) -> float:
    end_s = before.end_s
    if end_s is None:
        spent_s = before.output / options.answer_tokens_per_s if options.answer_tokens_per_s else 0.0
        end_s = before.arrival_s + spent_s
        report.note(
            "ends of answers are not recorded: a turn waits as long after the answer as it came after the "
            "turn before; --answer-tokens-per-s takes the time of the answer off"
        )
    # Microseconds: a difference of two binary fractions would not be written back as it was read.
    return max(round(now.arrival_s - end_s, 6), 0.0)


def whole_prompts(session: Session, fresh_ids: Iterator[int]) -> Iterator[WholePrompt]:
    """Yield a session's turns as whole prompts; ids for content of later turns are drawn from `fresh_ids`."""
    ids: tuple[int, ...] = ()
    chunk = session.chunk_tokens
    before = 0
    for turn, prompt in zip(session.turns, session.prompt_lengths(), strict=True):
        chunks = -(-prompt // chunk)
        if not before:
            ids = turn.hash_ids
        elif ids:
            kept = before if turn.kept_tokens is None else min(turn.kept_tokens, before)
            ids = ids[: kept // chunk]
        if ids or (session.turns[0].hash_ids and before):
            ids = (*ids, *(next(fresh_ids) for _ in range(chunks - len(ids))))
        yield WholePrompt(prompt, turn.output_tokens, 0.0, hash_ids=ids, gap_kind=turn.gap_kind)
        before = prompt
