"""How many arrivals an alarm must see before it can tell 105 % from 90 % of what a server sustains.

    python -m tests.stability.slow_servers    # about 15 seconds of CPU time

Nine simulated servers of a 70B model on four H100s, which sustain 0.6 to 6.7 requests a second, run 8,000
arrivals at 90 % and at 105 % of that, three times. The live rule (the queue has hardly been empty for the
last minutes) is asked every 20 arrivals with windows of 90 s, as it is, and of 300 and 900 s. The table
counts the answers by the arrivals seen since the start.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from random import Random

from tests.stability.loads import middle_rate, queued

from bidkv.policy import resolve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import BacklogWatch
from bidkv.stability.backlog import BACKLOG_S, BACKLOG_SHARE
from bidkv.tournament.session_plan import load_machine

MACHINE = "4xh100-70b"
LAWS = ("uniform-1-1", "sharegpt", "reasoning")
ENGINES = (
    EngineConfig(2048, max_num_seqs=64),
    EngineConfig(8192, max_num_seqs=256),
    EngineConfig(30_054, max_num_seqs=256),
)
LOADS = (0.9, 1.05)
WINDOWS_S = (90.0, 300.0, 900.0)
SEEN = (250, 500, 1000, 2000, 4000, 8000)
"""Ends of the ranges of arrivals seen."""
EVERY = 20
QUEUED = 1200
SEEDS = (1, 2, 3)

Answers = dict[tuple[float, int, float], list[bool]]
"""Whether the rule says unstable, by load, range of arrivals seen, and window."""


class Watched(Policy):
    """The engine's own order, with the rule asked as requests arrive."""

    name = "watched"

    def __init__(self, load: float, rate_rps: float, answers: Answers) -> None:
        self._load = load
        self._least = max(1.0, BACKLOG_S * rate_rps)
        self._answers = answers
        self._watches = {window_s: BacklogWatch(window_s) for window_s in WINDOWS_S}
        self._seen = 0

    def _look(self, engine: EngineView) -> None:
        for watch in self._watches.values():
            watch.update(engine.now_s, backlogged=engine.num_waiting >= self._least)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self._look(engine)
        self._seen += 1
        if self._seen % EVERY == 0:
            until = next(end for end in SEEN if self._seen <= end)
            for window_s, watch in self._watches.items():
                self._answers[self._load, until, window_s].append(watch.share >= BACKLOG_SHARE)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self._look(engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self._look(engine)


def arrivals(
    law: str, lengths: list[WorkloadRequest], load: float, rate_rps: float, seed: int
) -> list[WorkloadRequest]:
    """Return a Poisson process of the lengths, again and again."""
    random, now_s, made = Random(f"{law}:{load}:{seed}"), 0.0, []
    for index in range(SEEN[-1]):
        made.append(replace(lengths[index % len(lengths)], request_id=f"r{index}", arrival_s=now_s))
        now_s += random.expovariate(load * rate_rps)
    return made


def main() -> None:
    """Run all servers and print the table."""
    profile = load_machine(MACHINE)
    answers: Answers = defaultdict(list)
    for law in LAWS:
        lengths = queued(law, QUEUED)
        for engine in ENGINES:
            alone = simulate(lengths, resolve("preempt-evict"), engine, profile).completed
            rate_rps = middle_rate([record.finish_s or 0.0 for record in alone])
            print(
                f"{law}, {engine.num_gpu_blocks:,} blocks: sustains {rate_rps:.2f} requests a second",
                flush=True,
            )
            for load in LOADS:
                for seed in SEEDS:
                    requests = arrivals(law, lengths, load, rate_rps, seed)
                    simulate(requests, Watched(load, load * rate_rps, answers), engine, profile)
    print("called unstable, by arrivals seen  " + "".join(f"{f'to {end:,}':>10}" for end in SEEN))
    for load in LOADS:
        for window_s in WINDOWS_S:
            shares = [answers[load, end, window_s] for end in SEEN]
            cells = "".join(f"{sum(each) / len(each):>10.1%}" for each in shares)
            print(f"at {load:>4.0%}, window of {window_s:>3.0f} s           {cells}")


if __name__ == "__main__":
    main()
