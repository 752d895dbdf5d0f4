"""The session rates of `bidkv plan` beside the knees that the simulator finds by bisection.

    python -m benchmarks.planned_knees find knees.jsonl h100-8b/half 1,2 agents-8-turns chat
    python -m benchmarks.planned_knees table knees.jsonl

`find` takes a file, a machine and memory size of the tournament of sessions, seeds and session families (all
of them where none is named), and keeps every knee in the file, so that what was interrupted goes on. The
knees do not depend on the plan; `table` holds the present closed form against those of one or more files.

A simulated knee is where growth shows in the window in which sessions start
(:func:`bidkv.tournament.knee.find_knee`), so the planned rate is compared as the rate at which its growth
would show (:func:`bidkv.planning.session_rate.visible_growth_rate`). A window holds :data:`IN_WINDOW`
sessions at the planned rate, and lasts at least :data:`LIFETIMES` mean sessions: in a shorter one chance, or
the sessions that have not ended yet, hide what the queue does. Seeds below 100 are for tuning.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from bidkv.planning.replica import shape_of
from bidkv.planning.session_rate import SessionReplica, session_rates, visible_growth_rate
from bidkv.planning.session_traffic import SessionTraffic
from bidkv.stability import ReplicaShape
from bidkv.tournament.knee import find_knee
from bidkv.tournament.session_plan import load_machine, make_engine
from bidkv.workloads.session_families import SESSION_FAMILIES

IN_WINDOW = 1000
LIFETIMES = 12.0
ORDERS = ("preempt-evict", "sessions")

_SESSIONS = 1000
"""Sessions that a plan is made from: about as many as a simulation starts, so that their means agree."""


def find(file: str, place: str, seeds: str, *families: str) -> None:
    """Find the knees of both orders that the file does not hold yet."""
    machine, size = place.split("/")
    path = Path(file)
    done = {_key(row) for row in _read(path)}
    engine, profile = make_engine(machine, size), load_machine(machine)
    for family in families or SESSION_FAMILIES:
        for seed in map(int, seeds.split(",")):
            for order in ORDERS:
                key = (machine, size, family, seed, order)
                if key in done:
                    continue
                planned, session_s = _planned(*key)
                window_s = max(IN_WINDOW / planned, LIFETIMES * session_s)
                make = SESSION_FAMILIES[family]
                knee = find_knee(
                    lambda n, make=make, seed=seed: make(n=n, seed=seed),
                    order,
                    engine,
                    profile,
                    window_s,
                    seed=seed,
                )
                names = ("machine", "size", "family", "seed", "order")
                row = dict(zip(names, key, strict=True)) | {"window_s": window_s, "knee": knee}
                with path.open("a") as out:
                    out.write(json.dumps(row) + "\n")


def table(*files: str) -> None:
    """Print the plan beside every knee of the files, and how many are near."""
    print("| machine | memory | sessions | seed | order | planned/s | growth shows at | knee | error |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    errors: dict[str, list[float]] = {order: [] for order in ORDERS}
    rows = [row for file in files for row in _read(Path(file))]
    for row in sorted(rows, key=_key):
        planned, _ = _planned(*_key(row))
        shown = visible_growth_rate(planned, row["window_s"])
        error = shown / row["knee"] - 1.0
        errors[row["order"]].append(error)
        print(
            f"| {row['machine']} | {row['size']} | {row['family']} | {row['seed']} | {row['order']} | "
            f"{planned:.3g} | {shown:.3g} | {row['knee']:.3g} | {100 * error:+.0f} % |"
        )
    print()
    for order, found in errors.items():
        if found:
            near = sum(abs(error) <= 0.1 for error in found)
            sizes = [100 * abs(math.log1p(error)) for error in found]
            print(
                f"{order}: {near} of {len(found)} within 10 %; mean of |log error| "
                f"{statistics.fmean(sizes):.0f} %, median {statistics.median(sizes):.0f} %"
            )


def _planned(machine: str, size: str, family: str, seed: int, order: str) -> tuple[float, float]:
    """Return the planned session rate, and the mean seconds of a session at 80 % of it."""
    engine, profile = make_engine(machine, size), load_machine(machine)
    shape: ReplicaShape = shape_of(engine)
    traffic = SessionTraffic.of(SESSION_FAMILIES[family](n=_SESSIONS, seed=seed))
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s
    rates = session_rates(traffic, shape, profile)
    found = rates.own if order == "preempt-evict" else rates.kept
    return found.rate, SessionReplica(traffic, shape, step_time).session_s(found, 0.8 * found.rate)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, str, str, int, str]:
    return row["machine"], row["size"], row["family"], row["seed"], row["order"]


if __name__ == "__main__":
    {"find": find, "table": table}[sys.argv[1]](*sys.argv[2:])
