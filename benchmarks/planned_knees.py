"""The session rates of `bidkv plan` beside the knees that the simulator finds by bisection.

    python -m benchmarks.planned_knees h100-8b/half 1200 agents-8-turns chat

The arguments are a machine and a memory size of the tournament of sessions, the seconds in which sessions
start, and session families; of tuning seed 1. A simulated knee is where growth shows in that window
(`find_knee`), so the planned rate is compared as the rate at which its growth would show
(:func:`bidkv.planning.session_rate.visible_growth_rate`). The window must be several times as long as a
session lasts.
"""

from __future__ import annotations

import sys

from bidkv.planning.replica import shape_of
from bidkv.planning.session_rate import session_rates, visible_growth_rate
from bidkv.planning.session_traffic import SessionTraffic
from bidkv.tournament.knee import find_knee
from bidkv.tournament.session_plan import load_machine, make_engine
from bidkv.workloads.session_families import SESSION_FAMILIES

_SEED = 1
_SESSIONS = 300


def main(place: str, window: str, *families: str) -> None:
    """Print a line for each family and order."""
    machine, size = place.split("/")
    engine, profile, window_s = make_engine(machine, size), load_machine(machine), float(window)
    shape = shape_of(engine)
    print(
        "| machine | memory | sessions | order | planned/s | its growth shows at | simulated knee | error |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for family in families or SESSION_FAMILIES:
        make = SESSION_FAMILIES[family]
        rates = session_rates(SessionTraffic.of(make(n=_SESSIONS, seed=_SEED)), shape, profile)
        for order, planned in (("preempt-evict", rates.own.rate), ("sessions", rates.kept.rate)):
            shown = visible_growth_rate(planned, window_s)
            knee = find_knee(
                lambda n, make=make: make(n=n, seed=_SEED), order, engine, profile, window_s, seed=_SEED
            )
            print(
                f"| {machine} | {size} | {family} | {order} | {planned:.3g} | {shown:.3g} | {knee:.3g} | "
                f"{100 * (shown / knee - 1):+.0f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
