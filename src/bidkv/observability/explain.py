"""Why a request was preempted and what it cost, from a decision log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bidkv.observability.log_lines import (
    Admission,
    DecisionLine,
    Finish,
    Line,
    PolicyChange,
    Preemption,
)


@dataclass(slots=True)
class Setback:
    """One preemption of one request.

    Attributes:
        preemption: what happened.
        decision: the policy's choice that led to it; None when the engine's own rule did.
        rule: what set the victim apart, in the policy's words.
        resumed: when it ran again; None when the log ends before.
        recomputed_tokens: computed again until it stopped running the next time; None when the log ends
            before.
    """

    preemption: Preemption
    decision: DecisionLine | None
    rule: str
    resumed: Admission | None = None
    recomputed_tokens: int | None = None

    @property
    def waited_s(self) -> float | None:
        """From the preemption until it ran again."""
        return None if self.resumed is None else self.resumed.time_s - self.preemption.time_s


@dataclass(slots=True)
class Story:
    """What the log tells of one request."""

    request_id: str
    setbacks: list[Setback] = field(default_factory=list)
    first_admission: Admission | None = None
    finish: Finish | None = None

    @property
    def lost_tokens(self) -> int:
        """Computed positions given up."""
        return sum(setback.preemption.lost_tokens for setback in self.setbacks)

    @property
    def recomputed_tokens(self) -> int:
        """Tokens computed again, as far as the log reaches."""
        return sum(setback.recomputed_tokens or 0 for setback in self.setbacks)

    @property
    def waited_s(self) -> float:
        """Time between preemptions and running again, as far as the log reaches."""
        return sum(setback.waited_s or 0.0 for setback in self.setbacks)


def stories(lines: Iterable[Line], request_id: str | None = None) -> dict[str, Story]:
    """Return the story of every preempted request by its id, in the order of first preemptions.

    Args:
        lines: of a decision log.
        request_id: only this one, which is there even if it was never preempted (but not if the log does
            not know it).
    """
    told: dict[str, Story] = {}
    chosen: dict[str, DecisionLine] = {}
    rules: dict[str, str] = {}
    for line in lines:
        if isinstance(line, PolicyChange):
            rules[line.policy] = line.rule
        elif isinstance(line, DecisionLine):
            if line.victim is not None and request_id in (None, line.victim):
                chosen[line.victim] = line
        elif isinstance(line, (Admission, Preemption, Finish)) and request_id in (None, line.request_id):
            _tell(told, line, chosen, rules)
    if request_id is None:
        return {name: story for name, story in told.items() if story.setbacks}
    return told


def _tell(
    told: dict[str, Story],
    line: Admission | Preemption | Finish,
    chosen: dict[str, DecisionLine],
    rules: dict[str, str],
) -> None:
    name = line.request_id
    story = told.setdefault(name, Story(name))
    last = story.setbacks[-1] if story.setbacks else None
    if isinstance(line, Admission):
        if last is None:
            story.first_admission = line
        elif last.resumed is None:
            last.resumed = line
        return
    if last is not None and last.recomputed_tokens is None:
        last.recomputed_tokens = line.recomputed_tokens
    decision = chosen.pop(name, None)
    if isinstance(line, Finish):
        story.finish = line
        return
    # Engines count the step before or after the question is asked.
    if line.by != "policy" or (decision is not None and line.step - decision.step > 1):
        decision = None
    story.setbacks.append(Setback(line, decision, "" if decision is None else rules.get(decision.policy, "")))
