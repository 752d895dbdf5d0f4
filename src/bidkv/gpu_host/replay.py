"""Replay single requests on a real vLLM engine in this process, one policy after another.

For a machine with a GPU and nothing but vLLM and this package::

    python -m bidkv.gpu_host.replay --plan plan.json --output-dir runs --num-gpu-blocks 600

The plan is a JSON list of runs in the order they are made; each names a workload family, its size, rate and
seed, a policy, and optionally the step's token budget and how many of the engine's blocks may be used::

    [{"name": "t-lcf-1", "family": "mixed", "n": 250, "rate_rps": 7.0, "seed": 1001, "policy": "lcf",
      "chunk": 512, "blocks": 600}]

A `rate_rps` of null queues everything before the clock starts. Requests are submitted when they are due, the
engine is stepped by hand, and between two runs it is idle and its prefix cache is empty: one engine serves
all runs, so that no two of them differ in how it was started. Every run is written as one result file when it
ends; the same command again makes only the runs that are missing. A run with `"steps": true` leaves its step
log beside its result, in the columns a calibration reads; a step's time there runs to the next step's start,
so that what the host does between two steps is part of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.calibration.replay_plan import TIMELINE_EVERY, make_run_requests
from bidkv.calibration.step_columns import RECORDED_COLUMNS
from bidkv.command_line import print_error, run_command, say
from bidkv.gpu_host.calibration_recorder import Row, describe_batch
from bidkv.gpu_host.engine import DEFAULT_SHAPE, build_engine
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint
from bidkv.results.codec import encode
from bidkv.results.files import write_output


class Replayer(ServedEngine):
    """One engine under one adapter; runs workloads on it, policy by policy."""

    def __init__(self, engine: Any, seed: int) -> None:
        super().__init__(engine)
        self._random = Random(seed)
        self.preempted: dict[str, int] = {}
        self.batch: Row = {}
        self.ahead: Row = {}
        self.step_log: list[Row] | None = None
        self._watch()

    def _watch(self) -> None:
        """Count preemptions by request, and describe each step's batch while a step log is kept."""
        scheduler = self.scheduler
        preempt, schedule = scheduler._preempt_request, scheduler.schedule

        def watched_preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
            self.preempted[request.request_id] = self.preempted.get(request.request_id, 0) + 1
            return preempt(request, *args, **kwargs)

        def watched_schedule(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            if self.step_log is not None:
                self.batch = describe_batch(scheduler, output.num_scheduled_tokens)
            return output

        scheduler._preempt_request, scheduler.schedule = watched_preempt, watched_schedule

    def run(self, spec: dict[str, Any]) -> RunResult:
        """Make one run of the plan."""
        requests = make_run_requests(spec)
        chunk = spec.get("chunk", self.engine.vllm_config.scheduler_config.max_num_batched_tokens)
        self.scheduler.max_num_scheduled_tokens = chunk
        self.engine.reset_prefix_cache()
        self.switch(spec["policy"])
        self.preempted.clear()
        self.step_log = [] if spec.get("steps") else None
        prompts = {
            request.request_id: self._random.choices(range(self.vocabulary), k=request.prompt_tokens)
            for request in requests
        }
        with self.limited_to(spec.get("blocks")):
            return _Drive(self, requests, prompts, spec["policy"]).to_end()


PROG = "bidkv.gpu_host.replay"


class _Drive:
    def __init__(
        self,
        replayer: Replayer,
        requests: Sequence[WorkloadRequest],
        prompts: dict[str, list[int]],
        policy: str,
    ) -> None:
        self._replayer = replayer
        self._prompts = prompts
        self._requests = {request.request_id: request for request in requests}
        self._due = deque(requests)
        self._policy = policy
        self._first_s: dict[str, float] = {}
        self._records: list[RequestRecord] = []
        self._timeline: list[TimelinePoint] = []
        self._used_block_seconds = 0.0
        self._steps = 0

    def to_end(self) -> RunResult:
        replayer = self._replayer
        replayer.ahead = {}
        lagging = bool(replayer.engine.vllm_config.scheduler_config.async_scheduling)
        engine, view, controller = replayer.engine, replayer.view, replayer.controller
        before = controller.counters.as_dict()
        tokens_before = view.num_scheduled_tokens
        while self._due and self._due[-1].arrival_s == 0.0:
            self._submit_next()
        started = time.perf_counter()
        while self._due or engine.has_unfinished_requests():
            now = time.perf_counter() - started
            while self._due and self._due[0].arrival_s <= now:
                self._submit_next()
            if not engine.has_unfinished_requests():
                time.sleep(max(0.0, self._due[0].arrival_s - (time.perf_counter() - started)))
                continue
            outputs = engine.step()
            ended = time.perf_counter() - started
            self._take(outputs, now, ended)
            if replayer.step_log is not None and replayer.batch:
                next_s = time.perf_counter() - started
                # Scheduled ahead, what was waited for is the batch before.
                done, replayer.ahead = (replayer.ahead, replayer.batch) if lagging else (replayer.batch, {})
                if done:
                    replayer.step_log.append({"step_s": next_s - now, **done})
                replayer.batch = {}
        wall_s = time.perf_counter() - started
        counters = controller.counters.as_dict()
        grown = {name: counters[name] - before[name] for name in counters}
        totals = EngineTotals(
            steps=self._steps,
            scheduled_tokens=view.num_scheduled_tokens - tokens_before,
            recomputed_tokens=grown["recomputed_tokens"],
            preemptions=grown["preemptions_by_policy"] + grown["preemptions_by_engine"],
            used_block_seconds=self._used_block_seconds,
            usable_blocks=view.num_blocks,
            busy_s=wall_s,
        )
        notes = {"control": grown, "active": controller.active, "breaker": controller.breaker.reason}
        return RunResult(self._policy, self._records, totals, wall_s, wall_s, self._timeline, notes)

    def _submit_next(self) -> None:
        request = self._due.popleft()
        self._replayer.submit(request.request_id, self._prompts[request.request_id], request.output_tokens)

    def _take(self, outputs: Sequence[Any], began_s: float, ended_s: float) -> None:
        replayer = self._replayer
        scheduler, view = replayer.scheduler, replayer.view
        self._steps += 1
        used = view.num_blocks - view.free_blocks
        self._used_block_seconds += used * (ended_s - began_s)
        counters = replayer.controller.counters
        if self._steps % TIMELINE_EVERY == 1:
            preemptions = counters.preemptions_by_policy + counters.preemptions_by_engine
            point = TimelinePoint(ended_s, used, len(scheduler.running), view.num_waiting, preemptions)
            self._timeline.append(point)
        for output in outputs:
            name = output.request_id
            self._first_s.setdefault(name, ended_s)
            if output.finished:
                request = self._requests[name]
                self._records.append(
                    RequestRecord(
                        name,
                        request.arrival_s,
                        request.prompt_tokens,
                        request.output_tokens,
                        self._first_s[name],
                        ended_s,
                        replayer.preempted.get(name, 0),
                    )
                )


def write_steps(path: Path, spec: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write a run's step log; the cell columns say which run it was."""
    place = {"cell": spec["seed"], "conc": 0, "plen": 0, "chunk": spec.get("chunk", 0)}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, RECORDED_COLUMNS)
    writer.writeheader()
    writer.writerows([place | row for row in rows])
    write_output(path, text.getvalue())


def make_missing_runs(
    replayer: Replayer, plan: Sequence[dict[str, Any]], output_dir: Path, deadline_s: float
) -> int:
    """Make the runs without a result file; return how many are missing when no run may start any more."""
    missing = [spec for spec in plan if not (output_dir / f"{spec['name']}.json").exists()]
    left = len(missing)
    for spec in missing:
        if time.perf_counter() > deadline_s:
            break
        result = replayer.run(spec)
        path = output_dir / f"{spec['name']}.json"
        write_output(path, encode(result))
        if replayer.step_log is not None:
            write_steps(path.with_suffix(".steps.csv"), spec, replayer.step_log)
        left -= 1
        figures = result.summary()
        say(
            f"{spec['name']}: {figures['throughput_rps']:.3f} req/s, mean {figures['e2e_s']['mean']:.3f} s, "
            f"tax {figures['recompute_tax']:.3f}, {figures['preemptions']} preempted, {result.wall_s:.0f} s"
        )
    return left


def command(
    plan: Annotated[Path, typer.Option(metavar="FILE", help="the runs to make, in order (JSON)")],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="one result file per run")],
    num_gpu_blocks: Annotated[int, typer.Option(metavar="N", help="KV blocks, the null block included")],
    model: Annotated[
        str, typer.Option(metavar="DIR|SHAPE", help="a model directory or a packaged shape")
    ] = DEFAULT_SHAPE,
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="most requests at once")] = 32,
    max_num_batched_tokens: Annotated[int, typer.Option(metavar="N", help="token budget")] = 2048,
    async_scheduling: Annotated[
        bool, typer.Option("--async-scheduling", help="schedule one step ahead, as vLLM does by default")
    ] = False,
    enable_prefix_caching: Annotated[
        bool, typer.Option("--enable-prefix-caching", help="as vLLM does by default")
    ] = False,
    time_limit_s: Annotated[float, typer.Option(metavar="S", help="start no run after this")] = math.inf,
) -> int:
    """Replay workloads on a real vLLM engine."""
    started_s = time.perf_counter()
    try:
        runs = json.loads(plan.read_bytes())
        if not isinstance(runs, list):
            raise ValueError("no list")
    except OSError as error:
        return print_error(error)
    except ValueError as error:
        return print_error(f"{plan}: expected a JSON list of runs ({error})")
    output_dir.mkdir(parents=True, exist_ok=True)
    os.environ["BIDKV_STRATEGY"] = ENGINE_ORDER
    kind = "BidKVAsyncScheduler" if async_scheduling else "BidKVScheduler"
    overrides = {
        "num_gpu_blocks_override": num_gpu_blocks,
        "scheduler_cls": f"bidkv.adapters.vllm.{kind}",
        "async_scheduling": async_scheduling,
        "enable_prefix_caching": enable_prefix_caching,
        "max_model_len": min(32_768, (num_gpu_blocks - 1) * 16),
    }
    engine = build_engine(model, max_num_seqs, max_num_batched_tokens, overrides)
    replayer = Replayer(engine, seed=0)
    warm_up = {"name": "warm-up", "family": "mixed", "n": 40, "rate_rps": None, "seed": 0, "policy": "lcf"}
    replayer.run(warm_up)
    say(f"ready after {time.perf_counter() - started_s:.0f} s")
    left = make_missing_runs(replayer, runs, output_dir, started_s + time_limit_s)
    say(f"{left} runs missing" if left else "complete")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
