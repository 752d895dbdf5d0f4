"""A simulated day of autoscaling: by desired replicas, by KV use, by queue length, and a fixed fleet.

    python -m benchmarks.autoscaled_day AzureLLMInferenceTrace_conv.csv chat 4 day.jsonl

The requests are a trace's, in its order and with its own irregular gaps, over a day whose rate rises and
falls sevenfold (`chat`, or `short`: with answers of an eighth, so that prompts bind and not memory), with
eight bursts of 5 to 20 minutes at 1.8 to 3 times the rate; each seed has a day of its own. Such a day
stretches the trace's gaps. `chat-unstretched` and `short-unstretched` repeat the trace in its own time, as
often as the day is long, and leave out requests by chance, the fewer the higher the rate of the hour.

A replica is Llama 3.1 8B on an L4 (computed profile). It needs `START_S` seconds from being asked for to its
first request, and one that is scaled away finishes what it holds; both are paid for. All rules act every
15 seconds through the same autoscaler, which is that of deploy/kubernetes/hpa.yaml: it grows at once, by two
replicas or twofold a minute at most, and shrinks by one a minute after ten minutes of less load. Finished
runs are kept in the file. Targets were chosen on seeds below 100; the days counted have seeds from 100 on.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from bidkv.evaluation.latency_target import LatencyTarget, attainment
from bidkv.policy import resolve
from bidkv.profiles.analytic import ServerMemory, analytic_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.simulator.fleet import ArrivingRequest, ReplicaView, simulate_fleet
from bidkv.stability import TARGET_LOAD, QueueingController, ReplicaAdvisor
from bidkv.workloads.traces import open_trace

FIRST_SEED = 100
DAY_S, STEP_S = 86_400.0, 60.0
MEAN_RPS = {"chat": 1.6, "short": 7.1}
"""Mean arrivals: about 1.85 times what a replica sustains of such requests."""

ANSWERS = {"chat": 1, "short": 8}
"""By what the answers of the trace are divided."""

START_S = 180.0
TARGET = LatencyTarget(ttft_s=5.0, tpot_s=0.15)
EVERY_S, DOWN_S, MINUTE_S = 15.0, 600.0, 60.0
TOLERANCE = 0.1
MOST = 16


class Watched(Policy):
    """The engine's own order; watches its server as a live one does, for the rule `desired`."""

    name = "watched"

    def __init__(self, servers: list[Watched]) -> None:
        self.servers = servers
        self.start()

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        copied = Watched(self.servers)
        self.servers.append(copied)
        return copied

    def start(self) -> None:
        """Forget everything: a new server."""
        self.now_s, self.arrived, self.looked_s = 0.0, 0, -math.inf
        self.base: tuple[int, int] | None = None
        self.controller = QueueingController(clock=lambda: self.now_s)
        self.advisor = ReplicaAdvisor()
        self.admitted_s: dict[str, float] = {}

    def look(self, engine: EngineView) -> None:
        self.now_s = engine.now_s
        if self.now_s - self.looked_s < 2.0:
            return
        self.looked_s = self.now_s
        self.base = self.base or (engine.num_steps, engine.num_scheduled_tokens)
        state = self.controller.compute_flow_state(
            engine.num_blocks, engine.num_blocks, num_waiting=engine.num_waiting,
            max_num_seqs=engine.max_num_seqs,
        )  # fmt: skip
        self.advisor.update(
            self.now_s, state, is_known=self.controller.service_time().enough, arrivals=self.arrived,
            steps=engine.num_steps - self.base[0], tokens=engine.num_scheduled_tokens - self.base[1],
            running=engine.num_running, waiting=engine.num_waiting,
            token_budget=engine.max_num_batched_tokens,
        )  # fmt: skip

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self.arrived += 1
        self.look(engine)
        self.controller.record_request_arrival(engine.now_s, request.num_prompt_tokens, "")

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self.admitted_s.setdefault(request.request_id, engine.now_s)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self.look(engine)
        # A request of the server's former life has no admission in this one.
        admitted_s = self.admitted_s.pop(request.request_id, None)
        if admitted_s is not None:
            end = request.num_prompt_tokens + request.num_output_tokens
            mean = request.num_prompt_tokens + request.num_output_tokens / 2
            self.controller.record_request_completion(
                engine.now_s, (engine.now_s - admitted_s) * 1e3, -(-end // 16), "", mean_blocks=mean / 16
            )


Rule = Callable[[Sequence[ReplicaView]], float]
"""From the replicas that serve to the number that there should be."""


class Autoscaler:
    """A router over a fleet that grows and shrinks; all replicas exist, those that are off get nothing."""

    name = "autoscaled"

    def __init__(self, rule: Rule, first: int, on_start: Callable[[int], None]) -> None:
        self._rule, self._on_start = rule, on_start
        self._ready_s: dict[int, float] = dict.fromkeys(range(first), 0.0)
        self._draining: dict[int, float] = {}
        self._asked_s: dict[int, float] = dict.fromkeys(range(first), 0.0)
        self._next_s, self._turn = EVERY_S, -1
        self._wanted: deque[tuple[float, int]] = deque([(0.0, first)])
        self._changes: deque[tuple[float, int]] = deque()
        self.paid_s = 0.0
        self.most = first

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        now_s = request.arrival_s
        if now_s >= self._next_s:
            self._next_s = now_s - now_s % EVERY_S + EVERY_S
            self._act(now_s, replicas)
        serving = self._serving(now_s)
        self._turn += 1
        return replicas[serving[self._turn % len(serving)]]

    def finish(self, end_s: float) -> float:
        """Return the replica seconds paid for until the end."""
        still = [*self._asked_s.values(), *self._draining.values()]
        return self.paid_s + sum(end_s - asked_s for asked_s in still)

    def _serving(self, now_s: float) -> list[int]:
        return [index for index, ready_s in self._ready_s.items() if ready_s <= now_s]

    def _act(self, now_s: float, replicas: Sequence[ReplicaView]) -> None:
        for index in [i for i in self._draining if not replicas[i].outstanding_requests]:
            self.paid_s += now_s - self._draining.pop(index)
        here = len(self._ready_s)
        serving = [replicas[index] for index in self._serving(now_s)]
        asked = self._rule(serving)
        if abs(asked / here - 1.0) <= TOLERANCE:
            asked = here
        number = min(max(math.ceil(round(asked, 6)), 1), MOST)
        self._wanted.append((now_s, number))
        while self._wanted[0][0] < now_s - DOWN_S:
            self._wanted.popleft()
        while self._changes and self._changes[0][0] <= now_s - MINUTE_S:
            self._changes.popleft()
        lately = sum(change for _, change in self._changes)
        if number > here:
            began = here - lately if lately > 0 else here
            number = min(number, max(began + 2, 2 * began))
            for _ in range(number - here):
                self._start(now_s)
        elif number < here:
            held = max(wanted for _, wanted in self._wanted)
            if held < here and not any(change < 0 for _, change in self._changes):
                self._stop()
                self._changes.append((now_s, -1))

    def _start(self, now_s: float) -> None:
        index = next(i for i in range(MOST * 2) if i not in self._ready_s and i not in self._draining)
        self._ready_s[index], self._asked_s[index] = now_s + START_S, now_s
        self._on_start(index)
        self._changes.append((now_s, 1))
        self.most = max(self.most, len(self._ready_s))

    def _stop(self) -> None:
        index = max(self._ready_s, key=lambda i: self._ready_s[i])
        del self._ready_s[index]
        self._draining[index] = self._asked_s.pop(index)


UNSTRETCHED = "-unstretched"
"""The end of a traffic's name where the trace's gaps are left as they are."""


def make_day(trace: str, traffic: str, seed: int) -> list[WorkloadRequest]:
    """Return a day of a trace's requests at the rate of each hour and burst."""
    random, whole = Random(seed), list(open_trace(trace).requests())
    lengths = traffic.removesuffix(UNSTRETCHED)
    shares = _rates_over_day(random)
    make = _thinned if traffic.endswith(UNSTRETCHED) else _stretched
    return [
        WorkloadRequest(f"r{index}", at_s, source.prompt_tokens, -(-source.output_tokens // ANSWERS[lengths]))
        for index, (at_s, source) in enumerate(make(whole, shares, MEAN_RPS[lengths], random))
    ]


def _rates_over_day(random: Random) -> list[float]:
    """Return the rate of each step of the day, in units of the mean without bursts."""
    bursts = [
        (random.uniform(0.0, DAY_S), random.uniform(300.0, 1200.0), random.uniform(1.8, 3.0))
        for _ in range(8)
    ]
    shares = []
    for step in range(int(DAY_S / STEP_S)):
        now_s = step * STEP_S
        share = 1.0 + 0.75 * math.sin(2.0 * math.pi * (now_s / DAY_S - 0.375))
        share *= max([times for start, last, times in bursts if start <= now_s < start + last], default=1.0)
        shares.append(share)
    return shares


def _thinned(
    whole: Sequence[WorkloadRequest], shares: Sequence[float], mean_rps: float, random: Random
) -> Iterator[tuple[float, WorkloadRequest]]:
    """Yield (second, request of the trace): the trace in its own time, over and over, thinned by chance."""
    span_s = whole[-1].arrival_s - whole[0].arrival_s
    trace_rps = (len(whole) - 1) / span_s
    wanted_rps = mean_rps * len(shares) / sum(shares)
    # So many copies of the trace, each from a moment of its own, that the highest rate leaves none short.
    copies = math.ceil(wanted_rps * max(shares) / trace_rps)

    def copy(offset_s: float) -> Iterator[tuple[float, int]]:
        begin_s = -offset_s
        while begin_s < DAY_S:
            for index, request in enumerate(whole):
                at_s = begin_s + request.arrival_s - whole[0].arrival_s
                if 0.0 <= at_s < DAY_S:
                    yield at_s, index
            begin_s += span_s + 1.0 / trace_rps

    for at_s, index in merge(*[copy(random.uniform(0.0, span_s)) for _ in range(copies)]):
        if random.random() < wanted_rps * shares[int(at_s / STEP_S)] / (copies * trace_rps):
            yield at_s, whole[index]


def _stretched(
    whole: Sequence[WorkloadRequest], shares: Sequence[float], mean_rps: float, random: Random
) -> Iterator[tuple[float, WorkloadRequest]]:
    """Yield (second, request of the trace): each gap of the trace as long as the rate then makes it."""
    sums = list(accumulate(shares, initial=0.0))
    number = int(mean_rps * DAY_S)
    offset, span_s = random.randrange(len(whole)), whole[-1].arrival_s - whole[0].arrival_s
    gap_s = span_s / (len(whole) - 1)
    passed = 0.0
    for index in range(number):
        source, before = (whole[(offset + index + k) % len(whole)] for k in (0, -1))
        gap = source.arrival_s - before.arrival_s
        passed += gap / gap_s if gap >= 0.0 else 1.0  # where the trace begins anew
        at = passed / number * sums[-1]
        if at >= sums[-1]:
            break
        step = bisect_left(sums, at, 1) - 1
        yield (step + (at - sums[step]) / shares[step]) * STEP_S, source


def run(requests: Sequence[WorkloadRequest], name: str, target: float) -> dict[str, Any]:
    """Simulate a day under one rule."""
    profile = analytic_profile("llama-3.1-8b", "l4", server=ServerMemory())
    assert profile.num_gpu_blocks is not None
    engine = EngineConfig(profile.num_gpu_blocks, max_num_seqs=64)
    servers: list[Watched] = []
    policy: Policy = Watched(servers) if name == "desired" else resolve("preempt-evict")

    def copies(index: int) -> Sequence[Watched]:
        # A policy may be copied more than once for a replica; one of the copies is asked.
        each = len(servers) // (2 * MOST)
        return servers[each * index : each * (index + 1)]

    def desired(serving: Sequence[ReplicaView]) -> float:
        # A replica is simulated up to now only when its state is read.
        needed = [
            max(copy.advisor.desired for copy in copies(r.index))
            for r in serving
            if r.outstanding_requests >= 0
        ]
        return sum(needed) * TARGET_LOAD / target

    def start(index: int) -> None:
        for copy in copies(index) if servers else ():
            copy.start()

    rules: dict[str, Rule] = {
        "desired": desired,
        "kv-use": lambda serving: sum(r.used_blocks / r.num_blocks for r in serving) / target,
        "queue": lambda serving: sum(r.waiting_requests for r in serving) / target,
        "fixed": lambda serving: target,
    }
    scaler = Autoscaler(
        rules[name],
        round(target) if name == "fixed" else 3,
        start,
    )
    result = simulate_fleet(
        requests, policy, engine, profile, replicas=2 * MOST, router=scaler, timeline_points=2
    ).merged
    summary = result.summary()
    return {
        "rule": name,
        "target": target,
        "requests": len(requests),
        "missed": 1.0 - attainment(result, TARGET),
        "replica_hours": scaler.finish(DAY_S) / 3600.0,
        "most": scaler.most,
        "ttft_p99_s": summary["ttft_s"]["p99"],
    }


RULES = (
    ("desired", 0.7),
    ("desired", 0.5),
    ("kv-use", 0.7),
    ("kv-use", 0.5),
    ("queue", 0.3),
    ("queue", 3.0),
    ("fixed", 5.0),
    ("fixed", 7.0),
)


def summarize(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with 95 % intervals over the days (Student's t)."""
    lines = [
        "| rule | target | missed | replica hours | most replicas | first token p99 |",
        "|---|---|---|---|---|---|",
    ]
    kinds = sorted(
        {(row["rule"], row["target"]) for row in rows},
        key=lambda kind: RULES.index(kind) if kind in RULES else 99,
    )
    for kind in kinds:
        days = [row for row in rows if (row["rule"], row["target"]) == kind]
        missed = interval([100.0 * day["missed"] for day in days])
        hours = interval([day["replica_hours"] for day in days])
        p99 = interval([day["ttft_p99_s"] for day in days])
        most = max(day["most"] for day in days)
        lines.append(f"| {kind[0]} | {kind[1]:g} | {missed} % | {hours} | {most} | {p99} s |")
    return "\n".join(lines)


def interval(values: Sequence[float]) -> str:
    """Return mean [low, high]."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def main(trace: str, traffic: str, days: str, file: str, first: str = str(FIRST_SEED), *rules: str) -> None:
    """Run what is missing and print the table; rules are NAME=TARGET, by default those of the table."""
    path = Path(file)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["seed"], row["rule"], row["target"]) for row in rows}
    asked = [(rule.partition("=")[0], float(rule.partition("=")[2])) for rule in rules] or RULES
    for seed in range(int(first), int(first) + int(days)):
        missing = [kind for kind in asked if (seed, *kind) not in done]
        day = make_day(trace, traffic, seed) if missing else []
        for name, target in missing:
            rows.append({"seed": seed} | run(day, name, target))
            with path.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
    print(summarize(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
