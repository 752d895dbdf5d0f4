"""A preempted request's story as text and as JSON."""

from __future__ import annotations

from typing import Any

from bidkv.observability.explain import Setback, Story
from bidkv.observability.log_lines import Candidate, DecisionLine


def format_story(story: Story) -> str:
    """Return the whole story of one request."""
    count = len(story.setbacks)
    times = {0: "was never preempted", 1: "was preempted once"}.get(count, f"was preempted {count} times")
    lines = [f"{story.request_id} {times}{_size(story)}."]
    for number, setback in enumerate(story.setbacks, 1):
        lines += ["", *_setback(number, setback)]
    if count:
        lines += ["", _total(story)]
    return "\n".join(lines)


def _size(story: Story) -> str:
    if story.finish is not None:
        return f" ({story.finish.prompt_tokens:,} prompt tokens, {story.finish.output_tokens:,} generated)"
    if story.first_admission is not None:
        return f" ({story.first_admission.prompt_tokens:,} prompt tokens)"
    return ""


def _setback(number: int, setback: Setback) -> list[str]:
    preemption, decision = setback.preemption, setback.decision
    head = f"{number}. At {preemption.time_s:.3f} s, step {preemption.step}"
    if decision is not None:
        lines = [
            f"{head}: the step needed {_blocks(decision.need_blocks)} more than were free; "
            f"{decision.running} requests ran, {decision.waiting} waited.",
            f"   {decision.policy} preempts {setback.rule or 'by its own rule'}; of "
            f"{decision.candidates_total} candidates it chose this one.",
            *_comparison(decision),
        ]
    elif preemption.by == "policy":
        lines = [f"{head}: chosen by the policy; the decision itself is not in the log."]
    else:
        lines = [
            f"{head}: by the engine's own rule (the policy chose none, or too few), with "
            f"{_blocks(preemption.free_blocks)} free; {preemption.running} requests still ran."
        ]
    return [*lines, f"   {_cost(setback)}"]


def _comparison(decision: DecisionLine) -> list[str]:
    victim = decision.candidate(decision.victim)
    if victim is None:
        return []
    lines = [f"   It: {_figures(victim)}."]
    own = decision.candidate(decision.own_choice)
    if own is not None and own is not victim:
        lines.append(f"   The engine's own rule would have taken {own.request_id}: {_figures(own)}.")
    elif own is not None:
        lines.append("   The engine's own rule would have taken it too.")
    return lines


def _figures(candidate: Candidate) -> str:
    terms = "".join(
        f"{name} {'unbounded' if value is None else f'{value:g}'}, "
        for name, value in candidate.terms.items()
    )
    return (
        f"{terms}{candidate.num_computed_tokens:,} computed tokens, "
        f"{candidate.num_output_tokens:,} generated, {_blocks(candidate.freed_blocks)} to free, "
        f"preempted {candidate.num_preemptions} times before"
    )


def _cost(setback: Setback) -> str:
    lost = f"It lost {setback.preemption.lost_tokens:,} computed tokens"
    if setback.resumed is None:
        return f"{lost}; when it ran again is not in the log."
    cached = setback.resumed.cached_tokens
    kept = f" ({cached:,} came back from the prefix cache)" if cached else ""
    recomputed = setback.recomputed_tokens
    again = (
        "how many were computed again is not in the log"
        if recomputed is None
        else f"{recomputed:,} were computed again{kept}"
    )
    return f"{lost}, waited {setback.waited_s or 0.0:.3f} s until it ran again; {again}."


def _total(story: Story) -> str:
    end = ""
    if story.finish is not None:
        how = "completed" if story.finish.completed else "aborted"
        end = f"; {how} {story.finish.time_s - story.finish.arrival_s:.3f} s after it arrived"
    return (
        f"In all: {story.recomputed_tokens:,} tokens computed again, {story.waited_s:.3f} s of waiting to "
        f"run again{end}."
    )


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count:,} blocks"


def story_as_dict(story: Story) -> dict[str, Any]:
    """Return the story as JSON takes it."""
    return {
        "request_id": story.request_id,
        "preemptions": [_setback_as_dict(setback) for setback in story.setbacks],
        "lost_tokens": story.lost_tokens,
        "recomputed_tokens": story.recomputed_tokens,
        "waited_s": round(story.waited_s, 6),
        "finished_s": None if story.finish is None else story.finish.time_s,
    }


def _setback_as_dict(setback: Setback) -> dict[str, Any]:
    preemption, decision = setback.preemption, setback.decision
    victim = None if decision is None else decision.candidate(decision.victim)
    return {
        "time_s": preemption.time_s,
        "step": preemption.step,
        "by": preemption.by,
        "policy": None if decision is None else decision.policy,
        "rule": setback.rule or None,
        "need_blocks": None if decision is None else decision.need_blocks,
        "candidates": None if decision is None else decision.candidates_total,
        "own_choice": None if decision is None else decision.own_choice,
        "terms": {} if victim is None else dict(victim.terms),
        "victim": None if victim is None else _candidate_as_dict(victim),
        "lost_tokens": preemption.lost_tokens,
        "recomputed_tokens": setback.recomputed_tokens,
        "waited_s": None if setback.waited_s is None else round(setback.waited_s, 6),
    }


def _candidate_as_dict(candidate: Candidate) -> dict[str, int]:
    return {
        "prompt_tokens": candidate.num_prompt_tokens,
        "output_tokens": candidate.num_output_tokens,
        "computed_tokens": candidate.num_computed_tokens,
        "freed_blocks": candidate.freed_blocks,
        "preemptions": candidate.num_preemptions,
    }
