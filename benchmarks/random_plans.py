"""Random plans held against simulation: is what they promise kept, and by how many replicas too many?

    python -m benchmarks.random_plans 200 plans.jsonl

A case is a law of lengths or a trace, a load, a memory size, engine limits, a profile and bounds on latency,
all drawn from its seed. The plan is made as `bidkv plan` makes it; then fleets are simulated with lengths and
arrivals that the plan never saw, down to the smallest that keeps the bounds: another seed of the same law,
and of a family of requests every other stretch (each seed of a family is a service of its own, with other
mean lengths, so that another seed would be other traffic). A real trace has its own arrivals alone. Finished
cases are kept in the file, so that an interrupted campaign goes on where it stopped. The seeds of cases start
at 6,000; those below served while the planner was made.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from bidkv.evaluation.latency_target import LatencyTarget
from bidkv.planning import Demand, make_plan
from bidkv.planning.fleet import FleetCheck, make_workload, simulate_size
from bidkv.planning.replica import shape_of
from bidkv.planning.resampling import join_stretches
from bidkv.planning.sizing import find_fewest, size_plan
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.profiles.analytic import ServerMemory, analytic_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.stability import ReplicaModel
from bidkv.workloads.families import FAMILIES
from bidkv.workloads.traces import open_trace

FIRST_SEED = 6_000
FRESH = 77_000
"""Added to a case's seed for the lengths and arrivals that its plan never saw."""

_PROFILES = ("h100-llama3.1-8b", "h100-llama3.1-8b-async", "h100-llama3.1-8b-traffic")
_ANALYTIC = (
    ("llama-3.1-8b", "l4", 1),
    ("llama-3.1-8b", "a100", 1),
    ("llama-3.1-70b", "h100", 4),
    ("qwen3-30b-a3b", "h200", 1),
)
_REQUESTS = 6_000

_STRETCH = 500
"""Requests of a family that follow each other, in what a plan sees and in what it does not."""


@dataclass(frozen=True)
class Case:
    """One random plan's input."""

    seed: int
    kind: str
    demand: Demand
    fresh: tuple[WorkloadRequest, ...]
    engine: EngineConfig
    profile: StepTimeProfile
    target: LatencyTarget


def make_case(seed: int) -> Case:
    """Draw a case."""
    random = Random(seed)
    if random.random() < 0.5:
        profile = load_profile(random.choice(_PROFILES))
    else:
        model, gpu, tensor = random.choice(_ANALYTIC)
        profile = analytic_profile(model, gpu, server=ServerMemory(tensor_parallel=tensor))
    kind = random.choice(["uniform", "equal", "family", "family", "trace", "varying"])
    blocks = round(math.exp(random.uniform(math.log(1_500), math.log(24_000))))
    engine = EngineConfig(
        num_gpu_blocks=blocks,
        max_num_seqs=random.choice([16, 32, 64, 128, 256]),
        max_num_batched_tokens=random.choice([512, 1024, 2048, 2048, 4096, 8192]),
    )
    shape = shape_of(engine)
    lengths = _Lengths(kind, random, engine.model_len)
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s
    model_ = ReplicaModel(lengths.demand(1.0, seed).law, shape, step_time)
    size = math.exp(random.uniform(math.log(0.5), math.log(14.0)))
    rate = size * 0.75 * model_.sustainable_rps
    idle = model_.at(0.02 * model_.sustainable_rps)
    assert idle is not None
    ttft_s = tpot_s = None
    bounded = random.choice(["ttft", "ttft", "both", "tpot"])
    if bounded != "tpot":
        ttft_s = idle.ttft_p99_high_s * math.exp(random.uniform(math.log(1.5), math.log(15.0)))
    if bounded != "ttft":
        tpot_s = idle.answer_tpot_s * random.uniform(1.3, 4.0)
    demand = lengths.demand(rate, seed)
    fresh: tuple[WorkloadRequest, ...] = ()
    if demand.requests:
        fresh = tuple(lengths.demand(rate, seed, is_fresh=True).requests)
    return Case(seed, lengths.name, demand, fresh, engine, profile, LatencyTarget(ttft_s, tpot_s))


class _Lengths:
    """A law of lengths, and how its requests arrive."""

    def __init__(self, kind: str, random: Random, longest: int) -> None:
        self.name = kind
        self._longest = longest
        half = longest // 3
        low = min(random.choice([10, 100, 1000]), half // 2)
        self._prompt = low, random.randint(low, max(low + 1, min(half, 8000)))
        first = random.choice([2, 10, 100])
        self._output = first, random.randint(first, max(first + 1, min(half, random.choice([60, 600, 2000]))))
        self._family = random.choice(sorted(set(FAMILIES) - {"azure-conv", "mooncake-conv"}))
        self._trace = random.choice(["azure-conv", "mooncake-conv"])
        self._skip = random.random()
        self._curve = [math.exp(random.uniform(-1.5, 1.0)) for _ in range(24)]
        if kind == "family":
            self.name = f"family {self._family}"
        elif kind == "trace":
            self.name = f"trace {self._trace}"

    def demand(self, rate: float, seed: int, *, is_fresh: bool = False) -> Demand:
        """Return the demand at a mean rate; `seed` decides on what chance brings.

        Args:
            rate: requests per second.
            seed: of lengths and arrivals.
            is_fresh: return the same kind of requests with other chance.
        """
        if self.name == "uniform":
            return Demand.uniform(self._prompt, self._output, rate)
        if self.name == "equal":
            return Demand.uniform((self._prompt[1],) * 2, (self._output[1],) * 2, rate)
        if self.name.startswith("family"):
            whole: Sequence[WorkloadRequest] = FAMILIES[self._family](2 * _REQUESTS, rate, seed)
            starts = range(_STRETCH if is_fresh else 0, len(whole), 2 * _STRETCH)
            requests = join_stretches(whole, (range(start, start + _STRETCH) for start in starts))
        elif self.name.startswith("trace"):
            requests = self._replayed(rate)
        else:
            requests = self._varying(rate, seed + FRESH if is_fresh else seed)
        kept = [r for r in requests if r.prompt_tokens + r.output_tokens <= self._longest]
        return Demand.from_requests(kept, self.name)

    def _replayed(self, rate: float) -> list[WorkloadRequest]:
        """A stretch of a real trace, in its own rhythm, faster or slower."""
        whole = list(open_trace(self._trace).requests())
        start = int(self._skip * max(len(whole) - _REQUESTS, 1))
        part = whole[start : start + _REQUESTS]
        began = part[0].arrival_s
        factor = (len(part) - 1) / (part[-1].arrival_s - began) / rate
        return [_at(request, (request.arrival_s - began) * factor) for request in part]

    def _varying(self, rate: float, seed: int) -> list[WorkloadRequest]:
        """Poisson arrivals whose rate follows a random curve of 24 steps."""
        random = Random(seed)
        mean = sum(self._curve) / len(self._curve)
        step_s = _REQUESTS / rate / len(self._curve)
        requests: list[WorkloadRequest] = []
        for index, share in enumerate(self._curve):
            now = index * step_s
            while (now := now + random.expovariate(rate * share / mean)) < (index + 1) * step_s:
                pair = random.randint(*self._prompt), random.randint(*self._output)
                requests.append(WorkloadRequest(f"r{len(requests)}", now, *pair))
        return requests


def _at(request: WorkloadRequest, time_s: float) -> WorkloadRequest:
    return WorkloadRequest(request.request_id, time_s, request.prompt_tokens, request.output_tokens)


def run_case(case: Case, *, closed_form: bool = False) -> dict[str, Any]:
    """Plan, and hold the plan against simulation."""
    closed = make_plan(case.demand, shape_of(case.engine), case.profile, target=case.target)
    plan = closed
    if not closed_form:
        plan, _ = size_plan(
            closed, case.demand, case.engine, case.profile, target=case.target, with_growth=False
        )
    number = min(max(1_500 * (plan.replicas or 1), 6_000), 20_000)
    workload = list(case.fresh) or make_workload(case.demand, case.engine, 1.0, number, case.seed + FRESH)
    rate = case.demand.arrivals.value

    def trial(replicas: int) -> FleetCheck:
        return simulate_size(workload, case.engine, case.profile, case.target, "round-robin", replicas, rate)

    kept = None if plan.replicas is None else trial(plan.replicas)
    guess = plan.replicas or max(math.ceil(20.0 * rate / plan.service.sustainable_rps), 1)
    fewest = find_fewest(trial, guess, most=8 * guess if plan.replicas else guess)
    return {
        "seed": case.seed,
        "kind": case.kind,
        "profile": case.profile.name,
        "blocks": case.engine.num_gpu_blocks,
        "seqs": case.engine.max_num_seqs,
        "budget": case.engine.max_num_batched_tokens,
        "rate": rate,
        "ttft_s": case.target.ttft_s,
        "tpot_s": case.target.tpot_s,
        "utilization": rate / plan.service.sustainable_rps,
        "closed_form": closed.replicas,
        "planned": plan.replicas,
        "kept": None if kept is None else kept.holds,
        "fewest": None if fewest is None else fewest.replicas,
        "check": None if kept is None else asdict(kept),
    }


def summarize(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the cases show as text."""
    promised = [row for row in rows if row["planned"] is not None]
    kept = sum(row["kept"] for row in promised)
    both = [row for row in promised if row["fewest"] is not None]
    planned, fewest = sum(row["planned"] for row in both), sum(row["fewest"] for row in both)
    refused = [row for row in rows if row["planned"] is None]
    wrongly = sum(row["fewest"] is not None for row in refused)
    closed = [row for row in both if row["closed_form"] is not None]
    more = sum(row["planned"] > max(1.15 * row["fewest"], row["fewest"]) for row in both)
    by_one = sum(row["planned"] > row["fewest"] + 1 for row in both)
    lines = [
        f"{len(rows)} plans, {len(promised)} promise something: kept in simulation {kept} "
        f"({100.0 * kept / max(len(promised), 1):.1f} %)",
        f"replicas: {planned} planned, {fewest} would do: {100.0 * (planned / max(fewest, 1) - 1.0):+.1f} %; "
        f"{more} plans are more than 15 % over, {by_one} by more than one replica",
        f"refused: {len(refused)}, of which {wrongly} could be kept",
    ]
    if closed:
        alone = sum(row["closed_form"] for row in closed)
        few = sum(row["fewest"] for row in closed)
        lines.append(f"closed form alone: {alone} replicas where {few} would do")
    return "\n".join(lines)


def main(number: str, file: str, first: str = str(FIRST_SEED)) -> None:
    """Run what is missing of `number` cases and print the summary."""
    path = Path(file)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {row["seed"] for row in rows}
    for seed in range(int(first), int(first) + int(number)):
        if seed not in done:
            rows.append(run_case(make_case(seed)))
            with path.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
    print(summarize(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
