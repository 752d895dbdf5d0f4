"""What the load generator saw of each turn, as JSON lines, and the records made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bidkv.experiments.load_samples import LoadReport
from bidkv.results import EngineTotals, Outcome, RequestRecord
from bidkv.results.files import atomic_file
from bidkv.results.gaps import TokenGaps

SESSION_SAMPLES_VERSION = 1


@dataclass(slots=True)
class TurnSample:
    """One turn as its client saw it; times are seconds after the run's start (`LoadReport.start_s`).

    Attributes:
        request_id: `session_id#turn`.
        session_id: of its session.
        turn: its number in the session, from 0.
        intended_s: when it was due.
        new_tokens: prompt tokens that the client added.
        past_tokens: leading prompt tokens whose KV an earlier turn of the session had computed.
        ends_session: whether it is the session's last turn.
        prompt_tokens: length of the prompt: by the server's count when it says one, else as sent.
        sent_s: when its headers left, connecting included; None when they never did.
        first_token_s: time of the first chunk with tokens.
        last_token_s: time of the last one.
        tokens: output tokens received.
        cached_tokens: prompt tokens that the server found in its prefix cache; None when it does not say.
        done_s: when the stream ended with the tokens asked for; None when it did not.
        error: why it did not; empty when it did.
    """

    request_id: str
    session_id: str
    turn: int
    intended_s: float
    new_tokens: int
    past_tokens: int
    ends_session: bool
    prompt_tokens: int
    sent_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    tokens: int = 0
    cached_tokens: int | None = None
    done_s: float | None = None
    error: str = ""

    def make_record(self) -> RequestRecord:
        """Return the turn's record; its latency counts from the intended time."""
        completed = self.done_s is not None
        return RequestRecord(
            self.request_id,
            self.intended_s,
            self.prompt_tokens,
            self.tokens,
            self.first_token_s,
            # What follows the last token ([DONE], the end of the stream) is not the answer.
            self.last_token_s if completed else None,
            outcome=Outcome.COMPLETED if completed else Outcome.FAILED,
            detail=self.error,
            session_id=self.session_id,
            turn=self.turn,
            ends_session=self.ends_session,
            new_tokens=self.new_tokens,
            cached_tokens=self.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class SessionSamples:
    """What the client saw of one run.

    Attributes:
        report: how well the load was applied.
        cut_s: seconds after the start at which the run was cut or ended.
        gaps: times between two chunks of an answer; the tokens of one chunk come at once.
        turns: every turn that was sent and not cut.
    """

    report: LoadReport
    cut_s: float
    gaps: TokenGaps
    turns: Sequence[TurnSample]


def write_session_samples(path: Path, samples: SessionSamples) -> None:
    """Write the report and one line per turn; the file appears whole or not at all."""
    head: dict[str, Any] = {
        "version": SESSION_SAMPLES_VERSION,
        "report": samples.report.as_dict(),
        "cut_s": samples.cut_s,
        "gap_counts": samples.gaps.counts(),
        "longest_gap_s": samples.gaps.longest_s,
    }
    with atomic_file(path) as file:
        for line in (head, *map(asdict, samples.turns)):
            file.write((json.dumps(line, separators=(",", ":")) + "\n").encode())


def read_session_samples(path: Path) -> SessionSamples:
    """Read what :func:`write_session_samples` wrote.

    Raises:
        ValueError: another version, or not such a file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            head = json.loads(file.readline())
            if head["version"] != SESSION_SAMPLES_VERSION:
                raise ValueError("another version")
            gaps = TokenGaps(((int(a), int(b)) for a, b in head["gap_counts"]), float(head["longest_gap_s"]))
            turns = [TurnSample(**json.loads(line)) for line in file]
            return SessionSamples(LoadReport(**head["report"]), float(head["cut_s"]), gaps, turns)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected session samples of version {SESSION_SAMPLES_VERSION} ({str(error)[:100]})"
            ) from error


def add_session_totals(totals: EngineTotals, samples: SessionSamples, block_size: int) -> EngineTotals:
    """Return the totals with what turns say about the prefix cache, as far as the server told it.

    Args:
        totals: of the engine's counters.
        samples: what the client saw.
        block_size: tokens per KV block; only whole blocks can be cached.
    """
    totals = replace(totals, token_gaps=samples.gaps)
    known = [
        turn for turn in samples.turns if turn.cached_tokens is not None and turn.first_token_s is not None
    ]
    if not known or len(known) < sum(turn.first_token_s is not None for turn in samples.turns):
        return totals
    lost_tokens = 0
    for turn in known:
        past_tokens = min(turn.past_tokens, turn.prompt_tokens - 1) // block_size * block_size
        lost_tokens += max(0, past_tokens - (turn.cached_tokens or 0))
    return replace(
        totals,
        prompt_tokens_seen=sum(turn.prompt_tokens for turn in known),
        prefix_hit_tokens=sum(turn.cached_tokens or 0 for turn in known),
        lost_prefix_tokens=lost_tokens,
    )
