"""What another policy would have chosen, decision by decision, among the candidates of a decision log.

Every question is asked as it stood in the logged run. What would have followed from another answer is for the
simulator to say. The policy is told of the logged events, so that it can learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bidkv.observability.log_lines import Admission, Candidate, DecisionLine, Finish, Line, Preemption
from bidkv.observability.log_reader import LogError
from bidkv.observability.replay_views import LoggedEngine, LoggedRequest
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import RequestView

LOGGED = "logged"


@dataclass(slots=True)
class Score:
    """What one policy's choices add up to.

    Attributes:
        name: of the policy; :data:`LOGGED` for the choices that were really made.
        decisions: questions it answered.
        abstentions: questions it left to the engine, where the log does not name the engine's choice.
        same: answers equal to the logged ones.
        lost_tokens: computed tokens its victims held: what must be computed again.
        freed_blocks: blocks its victims would free.
        sufficient: decisions in which one victim frees all that was missing.
    """

    name: str
    decisions: int = 0
    abstentions: int = 0
    same: int = 0
    lost_tokens: int = 0
    freed_blocks: int = 0
    sufficient: int = 0

    def count(self, choice: Candidate | None, decision: DecisionLine) -> None:
        """Count one answer."""
        if choice is None:
            self.abstentions += 1
            return
        self.decisions += 1
        self.same += choice.request_id == decision.victim
        self.lost_tokens += choice.num_computed_tokens
        self.freed_blocks += choice.freed_blocks
        self.sufficient += choice.freed_blocks >= decision.need_blocks


@dataclass(frozen=True, slots=True)
class Replay:
    """The scores, the logged choices first, and how many decisions show only some of their candidates."""

    scores: Sequence[Score]
    truncated: int


def replay(lines: Iterable[Line], policies: Sequence[tuple[str, Policy]]) -> Replay:
    """Ask policies every logged question.

    A policy that leaves victims to the engine is scored with the engine's own choice.

    Args:
        lines: of a decision log.
        policies: (name, fresh policy).

    Raises:
        ValueError: a policy reads true output lengths, which no log holds, or its answer is not one of the
            candidates.
        LogError: the first line does not describe the engine.
    """
    for name, policy in policies:
        if policy.clairvoyant:
            raise ValueError(f"{name!r} reads true output lengths, which no log holds")
    engine = LoggedEngine()
    logged = Score(LOGGED)
    scores = [Score(name) for name, _ in policies]
    truncated = 0
    for line in lines:
        engine.see(line)
        if not engine.num_blocks:
            raise LogError("expected a log whose first line is of kind 'start', which describes the engine")
        if isinstance(line, DecisionLine):
            truncated += not line.complete
            logged.count(line.candidate(line.victim), line)
            for score, (name, policy) in zip(scores, policies, strict=True):
                score.count(_answer(name, policy, line, engine), line)
        elif isinstance(line, (Admission, Preemption, Finish)):
            for _, policy in policies:
                _tell(policy, line, engine)
    return Replay([logged, *scores], truncated)


def _answer(name: str, policy: Policy, line: DecisionLine, engine: LoggedEngine) -> Candidate | None:
    if not policy.chooses_victims:
        return line.candidate(line.own_choice)
    choice: RequestView | None = policy.select_victim(line.candidates, line.need_blocks, engine)
    if choice is None:
        return line.candidate(line.own_choice)
    candidate = line.candidate(choice.request_id)
    if candidate is None:
        raise ValueError(f"{name!r} chose {choice.request_id!r}, which is not one of the candidates")
    return candidate


def _tell(policy: Policy, line: Admission | Preemption | Finish, engine: LoggedEngine) -> None:
    request = LoggedRequest(line, engine.prompt_tokens(line.request_id))
    if isinstance(line, Admission):
        if line.preemptions == 0:
            policy.on_arrival(request, engine)
        policy.on_admit(request, engine)
    elif isinstance(line, Preemption):
        policy.on_preempt(request, line.lost_tokens, engine)
    else:
        policy.on_finish(request, engine, completed=line.completed)
