"""On a GPU: what the adapter costs without pressure, and whether the named victims are preempted.

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

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from bidkv.command_line import print_error, run_command
from bidkv.evaluation.intervals import mean_interval
from bidkv.gpu_host.engine import DEFAULT_SHAPE, build_engine
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.results.files import write_output

PROG = "bidkv.gpu_host.overhead"

_PROMPT_TOKENS = 200
_OUTPUT_TOKENS = 128


class MeasuredEngine(ServedEngine):
    """An engine that serves whole workloads against the clock."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self._serial = 0

    def serve(self, lengths: Sequence[tuple[int, int]], seed: int) -> float:
        """Serve requests that all arrive at the start; returns the seconds it took.

        Args:
            lengths: prompt and output tokens of each request.
            seed: of the prompts' tokens.
        """
        random = Random(seed)
        for prompt_tokens, output_tokens in lengths:
            self._serial += 1
            tokens = random.choices(range(self.vocabulary), k=prompt_tokens)
            self.submit(f"request-{self._serial}", tokens, output_tokens)
        started = time.perf_counter()
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return time.perf_counter() - started


def measure_without_pressure(
    plain: MeasuredEngine, ours: MeasuredEngine, pairs: int, requests: int
) -> dict[str, Any]:
    """Return both engines' throughput in alternating pairs, and the ratio ours / plain with its interval."""
    lengths = [(_PROMPT_TOKENS, _OUTPUT_TOKENS)] * requests
    before = ours.controller.counters.as_dict()
    rows = []
    for pair in range(-1, pairs):  # the first warms both up and is not counted
        order = (plain, ours) if pair % 2 else (ours, plain)
        seconds = {id(engine): engine.serve(lengths, seed=pair) for engine in order}
        if pair >= 0:
            rows.append(
                {"plain_rps": requests / seconds[id(plain)], "ours_rps": requests / seconds[id(ours)]}
            )
    after = ours.controller.counters.as_dict()
    logs = [math.log(row["ours_rps"] / row["plain_rps"]) for row in rows]
    low, high = mean_interval(logs)
    return {
        "pairs": rows,
        "ratio": math.exp(statistics.fmean(logs)),
        "ratio_low": math.exp(low),
        "ratio_high": math.exp(high),
        "counters": {name: after[name] - before[name] for name in after},
    }


def measure_under_pressure(ours: MeasuredEngine, policy: str, blocks: int, requests: int) -> dict[str, Any]:
    """Serve with `policy` in a cache of `blocks`; compare the preempted requests with the named victims."""
    scheduler, controller, pool = ours.scheduler, ours.controller, ours.pool
    ours.switch(policy)
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

    random = Random(1)
    lengths = [(random.randint(20, 900), random.randint(20, 400)) for _ in range(requests)]
    with ours.limited_to(blocks):
        controller.before_step, scheduler._preempt_request = watched_before_step, watched_preempt
        try:
            seconds = ours.serve(lengths, seed=2)
        finally:
            controller.before_step, scheduler._preempt_request = before_step, preempt
    return {
        "policy": policy,
        "seconds": seconds,
        **seen,
        "pool_whole": pool.get_num_free_blocks() == pool.num_gpu_blocks - 1,
        "active": controller.active,
        "counters": controller.counters.as_dict(),
    }


def as_tables(figures: dict[str, Any]) -> str:
    """Return what `--output` wrote as Markdown: the pairs, and what the policies preempted."""
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


def command(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="measure; write the figures (JSON)")
    ] = None,
    show: Annotated[Path | None, typer.Option(metavar="FILE", help="print figures written earlier")] = None,
    model: Annotated[
        str, typer.Option(metavar="DIR|SHAPE", help="a model directory or a packaged shape")
    ] = DEFAULT_SHAPE,
    pairs: Annotated[int, typer.Option(metavar="N", help="alternating pairs, at least 2")] = 7,
    requests: Annotated[int, typer.Option(metavar="N", help="requests of a run")] = 128,
    policies: Annotated[
        str, typer.Option(metavar="P[,P...]", help="policies under pressure")
    ] = "lcf,bidkv,fair,fast",
) -> int:
    """Measure the adapter beside plain vLLM on a GPU, or print such figures."""
    if (output is None) == (show is None):
        return print_error("expected either --output or --show")
    if show is not None:
        try:
            print(as_tables(json.loads(show.read_bytes())))
        except OSError as error:
            return print_error(error)
        except (ValueError, LookupError, TypeError) as error:
            return print_error(f"{show}: expected what --output wrote ({error!r:.100})")
        return 0
    assert output is not None
    settings = {"async_scheduling": True, "num_gpu_blocks_override": 8192, "gpu_memory_utilization": 0.45}
    plain = MeasuredEngine(build_engine(model, 64, 2048, settings))
    print(f"plain scheduler: {type(plain.scheduler).__mro__[0].__qualname__}", file=sys.stderr, flush=True)
    adapter = {"scheduler_cls": "bidkv.adapters.vllm.BidKVAsyncScheduler"}
    ours = MeasuredEngine(build_engine(model, 64, 2048, settings | adapter))
    print(f"ours: {[c.__qualname__ for c in type(ours.scheduler).__mro__[:3]]}", file=sys.stderr, flush=True)
    ours.switch("fair")
    figures: dict[str, Any] = {"without_pressure": measure_without_pressure(plain, ours, pairs, requests)}
    write_output(output, json.dumps(figures, indent=2) + "\n")
    figures["under_pressure"] = [
        measure_under_pressure(ours, policy, 600, 150) for policy in policies.split(",")
    ]
    write_output(output, json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=1))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
