"""Run a tournament on all cores and return its standings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bidkv.evaluation.processes import map_on_processes
from bidkv.tournament.cells import run_group
from bidkv.tournament.plan import LOADS, PROFILE, TournamentCell, TournamentPlan
from bidkv.tournament.scores import Score
from bidkv.tournament.standings import Standings
from bidkv.workloads.families import Split

OnProgress = Callable[[int, int], None]


def evaluate(
    policies: Sequence[str],
    *,
    families: Sequence[str] | None = None,
    sizes: Sequence[str] | None = None,
    loads: Sequence[float] = LOADS,
    seeds: Sequence[int] | None = None,
    split: Split = "tuning",
    requests: int | None = None,
    jobs: int = 1,
    output_dir: Path | None = None,
    profile: str = PROFILE,
    on_progress: OnProgress | None = None,
) -> Standings:
    """Run all policies on identical requests and compare them with vLLM's own order, pair by pair.

    Args:
        policies: specs as `bidkv.policy.resolve` takes them; the baseline always takes part.
        families: names from `bidkv.workloads.families`; None takes all.
        sizes: names from :data:`SIZES`, or BLOCKS/SEQUENCES; None takes those of real servers.
        loads: arrival rates as shares of the throughput at saturation.
        seeds: seeds of the workloads; None takes the first four of `split`.
        split: "tuning", or "held_out" for judging.
        requests: requests of every run; None takes the number that belongs to the memory size.
        jobs: processes; -1 takes all cores.
        output_dir: folder in which scores are kept; a second call runs only those that are missing.
        profile: step times of the simulated engine: a profile, or a machine of :data:`MACHINES`.
        on_progress: called with (groups done, groups in all).

    Returns:
        The standings; the same arguments give the same ones, whatever `jobs` is.

    Raises:
        ValueError: a name that does not exist, or a number out of range.
    """
    plan = TournamentPlan.make(
        policies,
        families=families,
        sizes=sizes,
        loads=loads,
        seeds=seeds,
        split=split,
        requests=requests,
    )
    return play(plan, jobs=jobs, output_dir=output_dir, profile=profile, on_progress=on_progress)


def play(
    plan: TournamentPlan,
    *,
    jobs: int = 1,
    output_dir: Path | None = None,
    profile: str = PROFILE,
    on_progress: OnProgress | None = None,
) -> Standings:
    """Run a plan; the arguments are those of :func:`evaluate`."""
    groups = plan.groups()
    scores: dict[TournamentCell, dict[str, Score]] = {}
    simulated, busy_s = 0, 0.0
    run = partial(run_group, plan, profile_name=profile, output_dir=output_dir)
    played = map_on_processes(run, groups, jobs)
    for done, result in enumerate(played, start=1):
        scores.update(result.scores)
        simulated += result.requests
        busy_s += result.wall_s
        if on_progress is not None:
            on_progress(done, len(groups))
    return Standings(plan, dict(sorted(scores.items())), simulated_requests=simulated, busy_s=busy_s)
