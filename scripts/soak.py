"""Long runs, watched: memory and time per request must not grow, and no counter may drift.

    .venv/bin/python scripts/soak.py simulator --requests 10000000
    .venv-vllm/bin/python scripts/soak.py vllm --requests 100000

`simulator` streams a workload through the simulated engine; `vllm` drives the real scheduler of vLLM without
a model, through the adapter. Prints a line for each tenth of the run, with the median of the time a victim
decision took; exits 1 when the last line shows over 5 % more memory than the third, when a request is lost,
or when the books do not agree.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TENTHS = 10
SETTLED = 3
"""Lines after which caches and allocators have found their size."""
MOST_GROWTH = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mib() -> float:
    """Memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


class Watch:
    """A line for each tenth of the run, and the verdict over all of them."""

    def __init__(self, requests: int) -> None:
        self._every = max(1, requests // TENTHS)
        self._started = self._mark = time.perf_counter()
        self._lines: list[float] = []
        self._decisions_s: list[float] = []
        print(f"{'requests':>12} {'resident MiB':>13} {'us/request':>11} {'us/decision':>12}")

    def decided(self, seconds: float) -> None:
        """One victim decision took so long."""
        self._decisions_s.append(seconds)

    def count(self, done: int) -> None:
        """`done` requests are through."""
        if done % self._every:
            return
        gc.collect()
        now = time.perf_counter()
        self._lines.append(resident_mib())
        each = (now - self._mark) / self._every * 1e6
        decision = f"{median(self._decisions_s) * 1e6:12.1f}" if self._decisions_s else " " * 11 + "-"
        print(f"{done:12,} {self._lines[-1]:13.1f} {each:11.1f} {decision}", flush=True)
        self._mark = now
        self._decisions_s.clear()

    def verdict(self, problems: list[str]) -> int:
        """The exit status."""
        grown = self._lines[-1] / self._lines[min(SETTLED, len(self._lines)) - 1] - 1.0
        wall_s = time.perf_counter() - self._started
        print(f"{wall_s:.0f} s, memory after the first {SETTLED} tenths: {grown:+.1%}")
        if grown > MOST_GROWTH:
            problems.append(f"memory grew by {grown:.1%}")
        for problem in problems:
            print(f"PROBLEM: {problem}")
        return bool(problems)


def simulator(requests: int, strategy: str, seed: int) -> int:
    """Stream requests through the compiled engine under pressure."""
    from bidkv.policy import resolve
    from bidkv.profiles import load_profile
    from bidkv.protocol.requests import WorkloadRequest
    from bidkv.results import Outcome, RequestRecord
    from bidkv.simulator import EngineConfig, simulate

    def stream() -> Iterator[WorkloadRequest]:
        rng = random.Random(seed)
        now_s = 0.0
        for number in range(requests):
            now_s += rng.expovariate(40.0)
            yield WorkloadRequest(
                f"r{number}", now_s, rng.randint(20, 300), output := rng.randint(1, 60), max_tokens=2 * output
            )

    watch = Watch(requests)
    seen = tokens = preemptions = 0

    def take(record: RequestRecord) -> None:
        nonlocal seen, tokens, preemptions
        seen += record.outcome is Outcome.COMPLETED
        tokens += record.output_tokens
        preemptions += record.preemptions
        watch.count(seen)

    engine = EngineConfig(num_gpu_blocks=280, max_num_seqs=64)
    result = simulate(
        stream(),
        resolve(strategy),
        engine,
        load_profile("h100-llama3.1-8b"),
        backend="compiled",
        on_record=take,
    )
    counters = result.notes["control"]
    problems = []
    for name, got, expected in (
        ("completed", seen, requests),
        ("completions counted", counters["completions"], requests),
        ("arrivals counted", counters["arrivals"], requests),
        ("admissions counted", counters["admissions"], requests + preemptions),
        ("preemptions", result.totals.preemptions, preemptions),
        (
            "preemptions counted",
            counters["preemptions_by_policy"] + counters["preemptions_by_engine"],
            preemptions,
        ),
        ("failures", counters["failures"], 0),
    ):
        if got != expected:
            problems.append(f"{name}: {got:,}, expected {expected:,}")
    print(f"{result.totals.steps:,} steps, {tokens:,} tokens, {preemptions:,} preemptions, policy {strategy}")
    return watch.verdict(problems)


def vllm(requests: int, strategy: str, seed: int) -> int:
    """Keep the real scheduler full of requests, without a model, until so many are through."""
    from tests.vllm.cases import Case, EngineShape
    from tests.vllm.harness import make_request, worker_output
    from tests.vllm.ours import build_ours

    from bidkv.protocol.requests import WorkloadRequest

    rng = random.Random(seed)
    case = Case(EngineShape(num_blocks=48, max_num_seqs=16, max_num_batched_tokens=512), ())
    scheduler = build_ours(case, strategy)
    controller = scheduler.bidkv.controller
    watch = Watch(requests)
    controller.on_decision_time = watch.decided
    added = done = steps = preemptions = 0
    original = scheduler._preempt_request

    def counted(*args: object, **kwargs: object) -> None:
        nonlocal preemptions
        preemptions += 1
        original(*args, **kwargs)

    scheduler._preempt_request = counted
    while done < requests:
        while added < requests and added - done < 40:
            source = WorkloadRequest(f"r{added}", 0.0, rng.randint(10, 120), rng.randint(1, 18))
            scheduler.add_request(make_request(source, added % 100, case))
            added += 1
        scheduler.bidkv_clock.now_s += 0.01
        steps += 1
        output = scheduler.schedule()
        for outputs in scheduler.update_from_output(output, worker_output(scheduler, output)).values():
            for one in outputs.outputs:
                if one.finish_reason is not None:
                    done += 1
                    watch.count(done)
    counters = controller.counters
    engine = scheduler.bidkv.glue.engine
    engine.begin_step()
    problems = []
    for name, got, expected in (
        ("arrivals counted", counters.arrivals, requests),
        ("completions counted", counters.completions, requests),
        ("steps counted", counters.steps, steps),
        (
            "preemptions counted",
            counters.preemptions_by_policy + counters.preemptions_by_engine,
            preemptions,
        ),
        ("admissions counted", counters.admissions, requests + preemptions),
        ("failures", counters.failures, 0),
        ("views kept", len(engine.views), 0),
        ("free blocks", engine.free_blocks, case.shape.num_blocks - 1),
    ):
        if got != expected:
            problems.append(f"{name}: {got:,}, expected {expected:,}")
    print(f"{steps:,} steps, {preemptions:,} preemptions, policy {strategy}")
    return watch.verdict(problems)


def main(
    engine: Annotated[str, typer.Argument(metavar="simulator|vllm")],
    requests: Annotated[int, typer.Option(metavar="N")] = 100_000,
    strategy: Annotated[str, typer.Option(metavar="NAME")] = "fair",
    seed: Annotated[int, typer.Option(metavar="S")] = 1,
) -> None:
    """Run requests through an engine for hours; exit code 1 when memory grows or a counter is off."""
    runs = {"simulator": simulator, "vllm": vllm}
    if engine not in runs:
        raise typer.BadParameter(f"expected one of {', '.join(runs)}, got {engine!r}")
    raise typer.Exit(runs[engine](requests, strategy, seed))


if __name__ == "__main__":
    typer.run(main)
