"""How much of what `sessions` gains is kept where clients tell less: no ends, or nothing at all.

    python -m benchmarks.untold_sessions out/tournament half agents-20-turns 1001,1002,1003,1004

The first argument is the output folder of a `bidkv tournament --sessions --split held_out` on `h100-8b`. What
it lacks of the scores of both orders is run and kept there. The others are a memory size
(half or full, so that every session fits), a session family, and seeds. Prints the share of the gain over
vLLM's order that is kept, summed over the seeds: of the completion time at 1.5 times the knee, and of the
turns per second in closed loop with twice the resident sessions.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from bidkv.policy import resolve
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.simulator import simulate_sessions
from bidkv.tournament.knee import number_in
from bidkv.tournament.plan import BASELINE
from bidkv.tournament.session_cells import count_resident
from bidkv.tournament.session_plan import SessionPlan, load_machine, make_engine
from bidkv.tournament.session_scores import SessionScore
from bidkv.tournament.sessions import play_sessions
from bidkv.workloads.session_families import SESSION_FAMILIES

MACHINE, POLICY = "h100-8b", "sessions"
LOAD, LEVEL = 1.5, 2.0
STAGGER_S = 0.2
SHORTEST_S = 25.0
"""Seconds a session lasts at least, on average: so many are made that they do not run out."""
SAMPLE = 100
TELLS = {"ends not told": (False, True), "nothing told": (False, False)}
"""What clients tell: ends, and sessions."""


def shares(folder: Path, size: str, family: str, seeds: list[int]) -> dict[tuple[str, str], float]:
    """Return the shares of the gain that are kept, by loop and by what is told."""
    plan = SessionPlan.make(
        [POLICY],
        machines=[MACHINE],
        sizes=[size],
        families=[family],
        loads=[LOAD],
        levels=[LEVEL],
        seeds=seeds,
        split="held_out",
    )
    standings = play_sessions(plan, output_dir=folder)
    engine, profile = make_engine(MACHINE, size), load_machine(MACHINE)
    tokens = engine.usable_blocks * engine.block_size
    gained: dict[tuple[str, str], float] = {}
    for cell, scores in standings.scores.items():
        open_loop = cell.mode == "open"

        def make(number: int, seed: int = cell.seed) -> list[Session]:
            return list(SESSION_FAMILIES[family](number, seed))

        if open_loop:
            (rate,) = (
                LOAD * knees[BASELINE] for group, knees in standings.knees.items() if group.seed == cell.seed
            )
            sessions = make(max(number_in(plan.open_s, rate), 30))
            arrivals, duration_s, warm_up_s = SessionArrivals.at_rate(rate, seed=cell.seed), None, 0.0
        else:
            concurrent = max(round(LEVEL * count_resident(make(SAMPLE), tokens)), 1)
            duration_s, warm_up_s = plan.warm_up_s + plan.closed_s, plan.warm_up_s
            sessions = make(max(SAMPLE, math.ceil(duration_s / SHORTEST_S) * concurrent))
            arrivals = SessionArrivals.at_concurrency(concurrent, stagger_s=STAGGER_S)
        for name, (ends, named) in {"told": (True, True), **TELLS}.items():
            if name == "told":
                score = scores[POLICY]
            else:
                run = simulate_sessions(
                    sessions,
                    arrivals,
                    resolve(POLICY),
                    engine,
                    profile,
                    timeline_points=2,
                    duration_s=duration_s,
                    tells_ends=ends,
                    tells_sessions=named,
                )
                score = SessionScore.from_run(run, warm_up_s=warm_up_s)
            own = scores[BASELINE]
            if open_loop:  # no session was left over, so there is a mean
                gain = (own.completion_mean_s or 0.0) - (score.completion_mean_s or 0.0)
            else:
                gain = score.turns_per_s - own.turns_per_s
            gained[cell.mode, name] = gained.get((cell.mode, name), 0.0) + gain
    return {
        (mode, name): gain / gained[mode, "told"] for (mode, name), gain in gained.items() if name != "told"
    }


def main(argv: list[str]) -> int:
    """Print the shares; returns an exit status."""
    folder, size, family, seeds = argv
    figures = {"open": "completion time", "closed": "turns per second"}
    for (mode, name), share in shares(Path(folder), size, family, [int(s) for s in seeds.split(",")]).items():
        print(f"{family}, {size}, {name}: {share:.0%} of the gain in {figures[mode]} kept")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
