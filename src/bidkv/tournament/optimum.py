"""The exact optimum of small cases: every decision a policy could take, tried in the simulated engine.

A policy decides which request is preempted, which enters next, and whether none enters until the next event.
For a few requests all sequences of such decisions can be run one after another. The best mean latency among
them is what no policy on this engine can beat, whatever it knows. Reserves add nothing: to hold back an
admission is one of the choices. The tree is walked by repeated runs: a run follows a list of choices and
takes the first option beyond its end; the next run changes the last choice that has another option.

    python -m bidkv.tournament.optimum --cases 20

prints by how much policies are above it, and above the best that admits new requests in order of arrival.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Annotated

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.command_line import run_command
from bidkv.policy import resolve
from bidkv.profiles import DEFAULT_PROFILE, StepTimeProfile, load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate

COMPARED = (ENGINE_ORDER, "watermark", "fair", "fast", "on-time", "peak-gate", "smallest-volume")
"""Policies that the command compares; the last two know every length."""

_ENGINE = EngineConfig(num_gpu_blocks=300, max_num_seqs=8, max_num_batched_tokens=2048)
"""Memory for about three of the requests that :func:`small_cases` makes."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best that any sequence of decisions reaches.

    Attributes:
        mean_e2e_s: mean end-to-end latency, in seconds.
        runs: runs that were needed to try all of them.
    """

    mean_e2e_s: float
    runs: int


class _Scripted(Policy):
    """Takes its decisions by number from a list, and notes how many options each had."""

    name = "scripted"
    preemption_cap = None

    def __init__(self, script: Sequence[int], *, keeps_order: bool) -> None:
        self.options: list[int] = []
        self.taken: list[int] = []
        self._script = script
        self._keeps_order = keeps_order
        self._new: dict[str, RequestView] = {}
        self._preempted: dict[str, RequestView] = {}
        self._answer: RequestView | None = None
        self._asked = False

    def _choose(self, options: int) -> int:
        if options < 2:
            return 0
        place = len(self.options)
        choice = self._script[place] if place < len(self._script) else 0
        self.options.append(options)
        self.taken.append(choice)
        return choice

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        return candidates[-1 - self._choose(len(candidates))]

    def select_next(self, engine: EngineView) -> RequestView | None:
        if not self._asked:  # the answer may not change between two events
            self._asked = True
            new = list(self._new.values())
            waiting = [*self._preempted.values(), *(new[:1] if self._keeps_order else new)]
            # Nothing may enter until the next event, unless nothing runs: then there would be none.
            choice = self._choose(len(waiting) + bool(engine.num_running))
            self._answer = waiting[choice] if choice < len(waiting) else None
        return self._answer

    def reserve_blocks(self, engine: EngineView) -> int:
        return 0

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self._new[request.request_id] = request
        self._asked = False

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self._leave(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        self._preempted[request.request_id] = request
        self._asked = False

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self._leave(request)

    def _leave(self, request: RequestView) -> None:
        self._new.pop(request.request_id, None)
        self._preempted.pop(request.request_id, None)
        self._asked = False


def find_optimum(
    requests: Sequence[WorkloadRequest],
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    keeps_order: bool = False,
    most_runs: int = 20_000,
) -> Optimum | None:
    """Return the least mean latency of any sequence of decisions; None where there are too many to try.

    Args:
        requests: a handful; the number of sequences grows faster than exponentially.
        engine: the engine's options.
        profile: step times.
        keeps_order: new requests may enter in order of arrival only; preempted ones may return in any.
        most_runs: sequences to try at most, at about a millisecond each.
    """
    least_s, runs = math.inf, 0
    script: list[int] = []
    while runs < most_runs:
        policy = _Scripted(script, keeps_order=keeps_order)
        least_s = min(least_s, _mean_s(simulate(requests, policy, engine, profile, timeline_points=2)))
        runs += 1
        script = _next_script(policy.taken, policy.options)
        if not script:
            return Optimum(least_s, runs)
    return None


def _next_script(taken: Sequence[int], options: Sequence[int]) -> list[int]:
    """Return the choices of the next sequence, the last that can change raised by one; empty at the end."""
    script = list(taken)
    while script and script[-1] + 1 >= options[len(script) - 1]:
        script.pop()
    if script:
        script[-1] += 1
    return script


def _mean_s(run: RunResult) -> float:
    if failures := run.notes["control"]["failures"]:
        raise RuntimeError(f"a scripted decision was refused: {failures}")
    return fmean(record.e2e_s or 0.0 for record in run.completed)


def small_cases(count: int, size: int) -> Iterator[list[WorkloadRequest]]:
    """Yield cases of `size` requests that are queued at the start and do not fit together."""
    for case in range(count):
        random = Random(f"optimum:{case}")
        yield [
            WorkloadRequest(f"r{index}", 0.0, random.randint(200, 2500), random.randint(50, 600))
            for index in range(size)
        ]


def _compare(
    cases: Annotated[int, typer.Option(metavar="N", min=1, help="Small cases to try.")] = 20,
    size: Annotated[int, typer.Option(metavar="N", min=2, max=5, help="Requests of each.")] = 4,
    most_runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of a case at most.")] = 20_000,
) -> int:
    """Print how far policies are above the exact optimum of small cases."""
    profile = load_profile(DEFAULT_PROFILE)
    above: dict[str, list[float]] = {name: [] for name in ("best in order of arrival", *COMPARED)}
    runs = 0
    for requests in small_cases(cases, size):
        best = find_optimum(requests, _ENGINE, profile, most_runs=most_runs)
        ordered = find_optimum(requests, _ENGINE, profile, keeps_order=True, most_runs=most_runs)
        if best is None or ordered is None:
            continue
        runs += best.runs + ordered.runs
        above["best in order of arrival"].append(ordered.mean_e2e_s / best.mean_e2e_s)
        for name in COMPARED:
            run = simulate(requests, resolve(name), _ENGINE, profile, timeline_points=2)
            above[name].append(_mean_s(run) / best.mean_e2e_s)
    solved = len(above[ENGINE_ORDER])
    print(
        f"{solved} of {cases} cases of {size} requests solved in {runs:,} runs; mean latency to the optimum:"
    )
    for name, ratios in above.items():
        if ratios:
            mean = math.exp(fmean(map(math.log, ratios)))
            print(f"{name}: {mean:.3f}, at most {max(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_compare, "python -m bidkv.tournament.optimum"))
