"""Replay workloads on a real vLLM engine in this process, one policy after another.

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

import argparse
import csv
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from bidkv.baselines import ENGINE_ORDER
from bidkv.calibration.replay_plan import TIMELINE_EVERY, workload
from bidkv.calibration.step_columns import RECORDED_COLUMNS
from bidkv.gpu_host.calibration_recorder import Row, describe_batch
from bidkv.gpu_host.engine import build_engine
from bidkv.policy import resolve
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint
from bidkv.results.codec import encode


class Replayer:
    """One engine under one adapter; runs workloads on it, policy by policy."""

    def __init__(self, engine: Any, seed: int) -> None:
        self._engine = engine
        self._scheduler = engine.engine_core.engine_core.scheduler
        self._controller = self._scheduler.bidkv.controller
        self._view = self._scheduler.bidkv.glue.engine
        self._pool = self._scheduler.kv_cache_manager.block_pool
        self._vocabulary = engine.vllm_config.model_config.get_vocab_size()
        self._random = Random(seed)
        self.preempted: dict[str, int] = {}
        self.batch: Row = {}
        self.ahead: Row = {}
        self.step_log: list[Row] | None = None
        self._watch()

    def _watch(self) -> None:
        """Count preemptions by request, and describe each step's batch while a step log is kept."""
        scheduler = self._scheduler
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
        requests = workload(spec)
        chunk = spec.get("chunk", self._engine.vllm_config.scheduler_config.max_num_batched_tokens)
        self._scheduler.max_num_scheduled_tokens = chunk
        held = self._pool.num_gpu_blocks - spec.get("blocks", self._pool.num_gpu_blocks)
        # Blocks beyond the run's share are held by nobody's request: the engine sees a smaller cache.
        pinned = self._pool.get_new_blocks(held) if held else []
        self._view.num_blocks = self._pool.num_gpu_blocks - 1 - held
        self._engine.reset_prefix_cache()
        policy = spec["policy"]
        self._controller.switch(resolve(policy))
        self._controller.policy.name = policy
        self.preempted.clear()
        self.step_log = [] if spec.get("steps") else None
        prompts = {
            request.request_id: self._random.choices(range(self._vocabulary), k=request.prompt_tokens)
            for request in requests
        }
        try:
            return _Drive(self, requests, prompts, policy).to_end()
        finally:
            if pinned:
                self._pool.free_blocks(reversed(pinned))

    def submit(self, request: WorkloadRequest, prompt: list[int]) -> None:
        """Hand one request to the engine."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=request.output_tokens, ignore_eos=True, temperature=0.0, detokenize=False
        )
        self._engine.add_request(request.request_id, {"prompt_token_ids": prompt}, sampling)


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
        lagging = bool(replayer._engine.vllm_config.scheduler_config.async_scheduling)
        engine, view, controller = replayer._engine, replayer._view, replayer._controller
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
        self._replayer.submit(request, self._prompts[request.request_id])

    def _take(self, outputs: Sequence[Any], began_s: float, ended_s: float) -> None:
        replayer = self._replayer
        scheduler, view = replayer._scheduler, replayer._view
        self._steps += 1
        used = view.num_blocks - view.free_blocks
        self._used_block_seconds += used * (ended_s - began_s)
        counters = replayer._controller.counters
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
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RECORDED_COLUMNS)
        writer.writeheader()
        writer.writerows([place | row for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    started = time.perf_counter()
    arguments = argparse.ArgumentParser(
        prog="python -m bidkv.gpu_host.replay", description="Replay workloads on a real vLLM engine."
    )
    add = arguments.add_argument
    add("--plan", type=Path, required=True, metavar="FILE", help="the runs to make, in order (JSON)")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="one result file a run")
    add("--model", default="llama-3.1-8b", metavar="DIR|SHAPE", help="a model directory or a packaged shape")
    add("--num-gpu-blocks", type=int, required=True, metavar="N", help="KV blocks, the null block included")
    add("--max-num-seqs", type=int, default=32, metavar="N", help="most requests at once (%(default)s)")
    add("--max-num-batched-tokens", type=int, default=2048, metavar="N", help="token budget (%(default)s)")
    add("--async-scheduling", action="store_true", help="schedule one step ahead, as vLLM does by default")
    add("--time-limit-s", type=float, default=math.inf, metavar="S", help="start no run after this")
    args = arguments.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    plan = json.loads(args.plan.read_text())
    missing = [spec for spec in plan if not (args.output_dir / f"{spec['name']}.json").exists()]
    os.environ["BIDKV_STRATEGY"] = ENGINE_ORDER
    kind = "BidKVAsyncScheduler" if args.async_scheduling else "BidKVScheduler"
    overrides = {
        "num_gpu_blocks_override": args.num_gpu_blocks,
        "scheduler_cls": f"bidkv.adapters.vllm.{kind}",
        "async_scheduling": args.async_scheduling,
        "max_model_len": min(32_768, (args.num_gpu_blocks - 1) * 16),
    }
    engine = build_engine(args.model, args.max_num_seqs, args.max_num_batched_tokens, overrides)
    replayer = Replayer(engine, seed=0)
    warm = {"name": "warm-up", "family": "mixed", "n": 40, "rate_rps": None, "seed": 0, "policy": "lcf"}
    replayer.run(warm)
    print(f"ready after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    left = len(missing)
    for spec in missing:
        if time.perf_counter() - started > args.time_limit_s:
            break
        result = replayer.run(spec)
        path = args.output_dir / f"{spec['name']}.json"
        part = path.with_suffix(".part")
        part.write_text(encode(result))
        os.replace(part, path)
        if replayer.step_log is not None:
            write_steps(path.with_suffix(".steps.csv"), spec, replayer.step_log)
        left -= 1
        figures = result.summary()
        print(
            f"{spec['name']}: {figures['throughput_rps']:.3f} req/s, mean {figures['e2e_s']['mean']:.3f} s, "
            f"tax {figures['recompute_tax']:.3f}, {figures['preemptions']} preempted, {result.wall_s:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    print(f"{left} runs missing" if left else "complete", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
