"""Run a tournament of sessions on all cores and return its standings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bidkv.evaluation.processes import map_on_processes
from bidkv.tournament.session_cells import SessionGroupScores, run_session_group
from bidkv.tournament.session_plan import SessionCell, SessionGroup, SessionPlan
from bidkv.tournament.session_scores import SessionScore
from bidkv.tournament.session_standings import SessionStandings

OnProgress = Callable[[int, int], None]


def _run(plan: SessionPlan, index: int, output_dir: Path | None) -> tuple[int, SessionGroupScores]:
    return index, run_session_group(plan, plan.groups()[index], output_dir)


def play_sessions(
    plan: SessionPlan,
    *,
    jobs: int = 1,
    output_dir: Path | None = None,
    on_progress: OnProgress | None = None,
) -> SessionStandings:
    """Run a plan: all policies on identical sessions, compared with vLLM's own order pair by pair.

    Args:
        plan: what to run.
        jobs: processes; -1 takes all cores.
        output_dir: folder in which scores and knees are kept; a second call runs only those that are missing.
        on_progress: called with (groups done, groups in all).

    Returns:
        The standings; the same plan gives the same ones, whatever `jobs` is.
    """
    groups = plan.groups()
    scores: dict[SessionCell, dict[str, SessionScore]] = {}
    knees: dict[SessionGroup, dict[str, float]] = {}
    residents: dict[SessionGroup, int] = {}
    turns, busy_s = 0, 0.0
    run = partial(_run, plan, output_dir=output_dir)
    played = map_on_processes(run, range(len(groups)), jobs)
    for done, (index, result) in enumerate(played, start=1):
        scores.update(result.scores)
        knees[groups[index]] = result.knees
        residents[groups[index]] = result.resident
        turns += result.turns
        busy_s += result.wall_s
        if on_progress is not None:
            on_progress(done, len(groups))
    ordered = dict(sorted(scores.items()))
    return SessionStandings(
        plan, ordered, dict(sorted(knees.items())), dict(sorted(residents.items())), turns, busy_s
    )
