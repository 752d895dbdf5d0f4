"""The alarm of a live server, tried on vLLM's real scheduler with simulated seconds.

    .venv-vllm/bin/python -m tests.vllm.alarm FILE    # 48 runs, about 40 minutes of CPU time

The real scheduler with the adapter, its queueing controller and its metrics exporter serve ten minutes of
Poisson arrivals at eight shares of the rate that they sustain of the same lengths, for three laws and two
memory sizes, after eight minutes of settling. There is no model: a step takes what the profile of an H100
says, and the injected clock moves by it. What a scrape would show of `queueing_is_stable` every five
seconds, settling included, is written to FILE after every run. Runs that FILE has are not made again. The
laws are those with short answers: the real scheduler is paid for every token here, and
`tests/stability/test_alarm.py` simulates long answers as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.update({"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})

from benchmarks.vllm.real_run import step_seconds
from tests.stability.loads import (
    END_S,
    EVERY_S,
    STABLE_LOADS,
    UNSTABLE_LOADS,
    middle_rate,
    poisson,
    queued,
)
from tests.vllm.cases import Case, EngineShape
from tests.vllm.harness import make_request, worker_output
from tests.vllm.ours import build_ours

from bidkv.experiments.server_process import find_free_port
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.protocol.requests import WorkloadRequest

SHAPES = (
    EngineShape(2048, max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192),
    EngineShape(4096, max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=8192),
)
LAWS = ("mixed", "azure-conv", "code")
LOADS = tuple(sorted((*STABLE_LOADS, 0.95, *UNSTABLE_LOADS)))
QUEUED = 1200
"""Requests of which the sustainable rate is measured."""


class Server:
    """One real scheduler under a policy, with the metrics that a Prometheus would scrape of it."""

    def __init__(self, shape: EngineShape, policy: str = "preempt-evict") -> None:
        self._case = Case(shape, ())
        self._profile = load_profile(DEFAULT_PROFILE).for_engine(
            shape.max_num_seqs, shape.max_num_batched_tokens
        )
        self.scheduler: Any = build_ours(self._case, policy, BIDKV_METRICS_PORT=str(find_free_port()))
        self.samples: list[int] = []
        self.finished_s: list[float] = []

    def is_stable(self) -> int:
        """What a scrape shows: 1 or 0, or -1 where the controller has no data yet."""
        value = self.scheduler.bidkv.metrics.registry.get_sample_value("queueing_is_stable")
        return -1 if value != value else int(value)

    def serve(self, requests: list[WorkloadRequest], end_s: float) -> None:
        """Serve until everything is finished or the simulated time is up, and take a sample every 5 s."""
        scheduler, clock = self.scheduler, self.scheduler.bidkv_clock
        arrivals = deque(enumerate(requests))
        now_s, next_s = 0.0, EVERY_S
        while now_s <= end_s and (arrivals or scheduler.has_unfinished_requests()):
            if not scheduler.has_unfinished_requests():
                now_s = max(now_s, arrivals[0][1].arrival_s)
            while arrivals and arrivals[0][1].arrival_s <= now_s:
                index, request = arrivals.popleft()
                clock.now_s = request.arrival_s
                scheduler.add_request(make_request(request, index, self._case))
            clock.now_s = now_s
            output = scheduler.schedule()
            answer = worker_output(scheduler, output)
            now_s += step_seconds(scheduler, output.num_scheduled_tokens, self._profile)
            clock.now_s = now_s
            scheduler.update_from_output(output, answer)
            self.finished_s += [now_s] * len(scheduler.finished_req_ids)
            while next_s <= min(now_s, end_s):
                self.samples.append(self.is_stable())
                next_s += EVERY_S

    def close(self) -> None:
        """Give the port back."""
        self.scheduler.bidkv.metrics.close()


def sustainable_rate(law: str, shape: EngineShape) -> float:
    """Requests a second that the real scheduler finishes of a full queue of the law's requests."""
    server = Server(shape)
    server.serve(queued(law, QUEUED), float("inf"))
    server.close()
    return middle_rate(server.finished_s)


def watch(law: str, shape: EngineShape, load: float, rate_rps: float, end_s: float = END_S) -> list[int]:
    """What scrapes show during a run at `load` times the sustainable rate."""
    server = Server(shape)
    server.serve(poisson(law, queued(law, 2400), load, rate_rps), end_s)
    server.close()
    return server.samples


def shorten(samples: list[int]) -> str:
    """Write samples with runs of equal ones together: `_x2 1x30 0x4` (30 times 1; `_` is no data)."""
    parts = []
    for value, run in groupby(samples):
        parts.append(f"{'_' if value < 0 else value}x{len(list(run))}")
    return " ".join(parts)


def main(file: str) -> None:
    """Make the runs that are missing, and write each as it ends."""
    path = Path(file)
    runs: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    known = {(run["law"], run["blocks"], run["load"]) for run in runs}
    rates = {(run["law"], run["blocks"]): run["sustainable_rps"] for run in runs}
    for law in LAWS:
        for shape in SHAPES:
            for load in LOADS:
                if (law, shape.num_blocks, load) in known:
                    continue
                where = law, shape.num_blocks
                if where not in rates:
                    rates[where] = round(sustainable_rate(law, shape), 3)
                run = {"law": law, "blocks": shape.num_blocks, "load": load, "sustainable_rps": rates[where]}
                runs.append({**run, "is_stable": shorten(watch(law, shape, load, rates[where]))})
                path.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
                print(runs[-1], flush=True)


if __name__ == "__main__":
    with patch.dict("os.environ", {"HF_HUB_OFFLINE": "1"}):
        main(*sys.argv[1:])
