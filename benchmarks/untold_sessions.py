"""How much of what `sessions` gains is kept where clients tell less: no ends, or nothing at all.

    python -m benchmarks.untold_sessions out/tournament half agents-20-turns 1001,1002,1003,1004

The first argument is the output folder of a `bidkv tournament --sessions --split held_out` on `h100-8b`. What
it lacks of the scores of both orders is run and kept there. The others are a memory size
(half or full, so that every session fits), a session family, and seeds. Prints the share of the gain over
vLLM's order that is kept, summed over the seeds: of the completion time at 1.5 times the knee, and of the
turns per second in closed loop with twice the resident sessions.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bidkv.tournament.plan import BASELINE
from bidkv.tournament.session_cells import make_run, play_run, session_maker
from bidkv.tournament.session_plan import SessionPlan, load_machine, make_engine
from bidkv.tournament.sessions import play_sessions

MACHINE, POLICY = "h100-8b", "sessions"
LOAD, LEVEL = 1.5, 2.0
TELLS = {"ends not told": True, "nothing told": False}
"""Whether clients name their sessions; no end is told."""


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
    for group in plan.groups():
        make_sessions = session_maker(family, group.seed, tokens)
        for cell in plan.cells(group):
            closed = cell.mode == "closed"
            reference = standings.residents[group] if closed else standings.knees[group][BASELINE]
            run = make_run(plan, cell, make_sessions, reference)
            told = standings.scores[cell]
            scores = {"told": told[POLICY]} | {
                name: play_run(run, POLICY, engine, profile, tells_ends=False, tells_sessions=named)
                for name, named in TELLS.items()
            }
            for name, score in scores.items():
                if closed:
                    gain = score.turns_per_s - told[BASELINE].turns_per_s
                else:  # no session was left over, so there is a mean
                    gain = (told[BASELINE].completion_mean_s or 0.0) - (score.completion_mean_s or 0.0)
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
