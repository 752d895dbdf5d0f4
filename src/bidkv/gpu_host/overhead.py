"""On a GPU: does the adapter cost anything without pressure, and does it preempt whom the policy named?

Two engines live in this process, one plain and one under the adapter, both scheduling asynchronously as
vLLM does by default::

    python -m bidkv.gpu_host.overhead --output overhead.json --pairs 7

Without pressure the two serve the same requests in alternating pairs (the order inside a pair alternates
too); the ratio of their throughputs and its 95 % interval are reported. Under pressure the adapter's engine
serves a workload with a policy, and every request that reaches `_preempt_request` is compared with the
victims the policy named for that step. `--show overhead.json` prints recorded figures as Markdown and needs
no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from bidkv.evaluation.intervals import mean_interval
from bidkv.gpu_host.engine import build_engine
from bidkv.policy import resolve

_PROMPT_TOKENS = 200
_OUTPUT_TOKENS = 128


class Served:
    """An engine and its scheduler."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.scheduler = engine.engine_core.engine_core.scheduler
        self._vocabulary = engine.vllm_config.model_config.get_vocab_size()
        self._serial = 0

    def serve(self, lengths: Sequence[tuple[int, int]], seed: int) -> float:
        """Serve requests that are all there at the start; returns the seconds it took."""
        from vllm import SamplingParams

        random = Random(seed)
        for prompt_tokens, output_tokens in lengths:
            self._serial += 1
            sampling = SamplingParams(
                max_tokens=output_tokens, ignore_eos=True, temperature=0.0, detokenize=False
            )
            tokens = random.choices(range(self._vocabulary), k=prompt_tokens)
            self.engine.add_request(f"request-{self._serial}", {"prompt_token_ids": tokens}, sampling)
        started = time.perf_counter()
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return time.perf_counter() - started


def without_pressure(plain: Served, ours: Served, pairs: int, requests: int) -> dict[str, Any]:
    """Throughput of both engines in alternating pairs, and the ratio ours / plain with its interval."""
    lengths = [(_PROMPT_TOKENS, _OUTPUT_TOKENS)] * requests
    before = ours.scheduler.bidkv.controller.counters.as_dict()
    rows = []
    for pair in range(-1, pairs):  # the first warms both up and is not counted
        order = (plain, ours) if pair % 2 else (ours, plain)
        seconds = {id(engine): engine.serve(lengths, seed=pair) for engine in order}
        if pair >= 0:
            rows.append(
                {"plain_rps": requests / seconds[id(plain)], "ours_rps": requests / seconds[id(ours)]}
            )
    after = ours.scheduler.bidkv.controller.counters.as_dict()
    logs = [math.log(row["ours_rps"] / row["plain_rps"]) for row in rows]
    low, high = mean_interval(logs)
    return {
        "pairs": rows,
        "ratio": math.exp(statistics.fmean(logs)),
        "ratio_low": math.exp(low),
        "ratio_high": math.exp(high),
        "counters": {name: after[name] - before[name] for name in after},
    }


def under_pressure(ours: Served, policy: str, blocks: int, requests: int) -> dict[str, Any]:
    """Serve with `policy` in a cache of `blocks`; compare who was preempted with who was named."""
    scheduler, controller = ours.scheduler, ours.scheduler.bidkv.controller
    pool = scheduler.kv_cache_manager.block_pool
    pinned = pool.get_new_blocks(pool.num_gpu_blocks - blocks)
    view = scheduler.bidkv.glue.engine
    usable, view.num_blocks = view.num_blocks, blocks - 1
    controller.switch(resolve(policy))
    named: list[str] = []
    seen = {"preempted": 0, "preempted_as_named": 0, "first_was_first_choice": 0, "named": 0}
    before_step, preempt = controller.before_step, scheduler._preempt_request

    def watched_before_step(engine: Any) -> Any:
        victims = before_step(engine)
        named[:] = [victim.request_id for victim in victims]
        seen["named"] += len(named)
        return victims

    def watched_preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
        seen["preempted"] += 1
        if request.request_id in named:
            seen["preempted_as_named"] += 1
            seen["first_was_first_choice"] += named.index(request.request_id) == 0
        return preempt(request, *args, **kwargs)

    controller.before_step, scheduler._preempt_request = watched_before_step, watched_preempt
    random = Random(1)
    lengths = [(random.randint(20, 900), random.randint(20, 400)) for _ in range(requests)]
    try:
        seconds = ours.serve(lengths, seed=2)
    finally:
        controller.before_step, scheduler._preempt_request = before_step, preempt
        pool.free_blocks(reversed(pinned))
        view.num_blocks = usable
    counters = controller.counters.as_dict()
    whole = pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    return {
        "policy": policy,
        "seconds": seconds,
        **seen,
        "pool_whole": whole,
        "active": controller.active,
        "counters": counters,
    }


def as_tables(figures: dict[str, Any]) -> str:
    """What `--output` wrote, as Markdown: the pairs, and whom the policies preempted."""
    cost = figures["without_pressure"]
    lines = ["| pair | plain req/s | adapter req/s |", "|---|---|---|"]
    for number, pair in enumerate(cost["pairs"], 1):
        lines.append(f"| {number} | {pair['plain_rps']:.2f} | {pair['ours_rps']:.2f} |")
    interval = f"{cost['ratio_low']:.4f} to {cost['ratio_high']:.4f}"
    lines += ["", f"adapter / plain: {cost['ratio']:.4f}, 95 % interval {interval}", ""]
    lines += [
        "| policy | preempted | named by the policy | the first choice | all blocks back |",
        "|---|---|---|---|---|",
    ]
    for run in figures["under_pressure"]:
        back = "yes" if run["pool_whole"] else "no"
        counts = (run["preempted"], run["preempted_as_named"], run["first_was_first_choice"])
        lines.append(f"| {run['policy']} | {' | '.join(map(str, counts))} | {back} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = argparse.ArgumentParser(
        prog="python -m bidkv.gpu_host.overhead",
        description="The adapter beside plain vLLM on a GPU.",
    )
    add = arguments.add_argument
    what = arguments.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, metavar="FILE", help="measure; write the figures (JSON)")
    what.add_argument("--show", type=Path, metavar="FILE", help="print figures written earlier")
    add("--model", default="llama-3.1-8b", metavar="DIR|SHAPE", help="a model directory or a packaged shape")
    add("--pairs", type=int, default=7, metavar="N", help="alternating pairs, at least 2 (%(default)s)")
    add("--requests", type=int, default=128, metavar="N", help="requests a run (%(default)s)")
    add("--policies", default="lcf,bidkv,fair,fast", metavar="P[,P...]", help="under pressure (%(default)s)")
    args = arguments.parse_args(argv)
    if args.show is not None:
        print(as_tables(json.loads(args.show.read_text())))
        return 0
    settings = {"async_scheduling": True, "num_gpu_blocks_override": 8192, "gpu_memory_utilization": 0.45}
    plain = Served(build_engine(args.model, 64, 2048, settings))
    print(f"plain scheduler: {type(plain.scheduler).__mro__[0].__qualname__}", file=sys.stderr, flush=True)
    adapter = {"scheduler_cls": "bidkv.adapters.vllm.BidKVAsyncScheduler"}
    ours = Served(build_engine(args.model, 64, 2048, settings | adapter))
    print(f"ours: {[c.__qualname__ for c in type(ours.scheduler).__mro__[:3]]}", file=sys.stderr, flush=True)
    ours.scheduler.bidkv.controller.switch(resolve("fair"))
    figures: dict[str, Any] = {"without_pressure": without_pressure(plain, ours, args.pairs, args.requests)}
    args.output.write_text(json.dumps(figures, indent=2) + "\n")
    figures["under_pressure"] = [
        under_pressure(ours, policy, 600, 150) for policy in args.policies.split(",")
    ]
    args.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
