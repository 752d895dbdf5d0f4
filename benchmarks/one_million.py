"""One million requests, read from a trace file and simulated.

    python -m benchmarks.one_million [--trace FILE] [--requests N] [--strategy NAME]

Writes the file first, into a folder that is removed: the trace again and again, each time with its lengths
dealt out anew by a seeded generator, at a pace that the engine sustains. Then a fresh process reads and
simulates it and prints its wall-clock and CPU seconds, from the first line read to the last result, and the
most memory that it ever held. Compiling (done once a machine) and imports are not in the seconds, but in the
memory.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RequestRecord
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads import leave_out_unfit
from bidkv.workloads.traces import read_trace

PROFILE = "h100-llama3.1-8b"


@dataclass(frozen=True)
class Size:
    """An engine, and the mean arrival rate of the requests that it is given."""

    num_gpu_blocks: int
    max_num_seqs: int
    rate_rps: float


SIZES = (Size(600, 32, 2.4), Size(8192, 256, 5.5))


def extended(trace: str, count: int, rate_rps: float, seed: int = 0) -> Iterator[tuple[float, int, int]]:
    """Yield (arrival in seconds, prompt, output) of `count` requests."""
    requests = list(read_trace(trace, rate_rps=rate_rps))
    lengths = [(request.prompt_tokens, request.output_tokens) for request in requests]
    rng = random.Random(seed)
    start_s = 0.0
    while count > 0:
        for request, (prompt, output) in zip(requests[:count], lengths, strict=False):
            yield start_s + request.arrival_s, prompt, output
        count -= len(requests)
        start_s += len(requests) / rate_rps
        rng.shuffle(lengths)


def write(file: Path, rows: Iterator[tuple[float, int, int]]) -> None:
    """Write an Azure trace."""
    first = datetime(2023, 11, 16)
    with file.open("w") as out:
        out.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for arrival_s, prompt, output in rows:
            moment = first + timedelta(seconds=arrival_s)
            out.write(f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond:06},{prompt},{output}\n")


class Tally:
    """Counts records instead of keeping them."""

    def __init__(self) -> None:
        self.completed = 0
        self.e2e_s = 0.0

    def __call__(self, record: RequestRecord) -> None:
        if record.e2e_s is not None:
            self.completed += 1
            self.e2e_s += record.e2e_s


def run(file: str, size: Size, strategy: str) -> None:
    """Read and simulate a file; print the figures."""
    engine = EngineConfig(num_gpu_blocks=size.num_gpu_blocks, max_num_seqs=size.max_num_seqs)
    profile = load_profile(PROFILE)
    warm = [WorkloadRequest("warm", 0.0, 100, 10)]
    simulate(warm, resolve(strategy), engine, profile, backend="compiled")
    tally = Tally()
    started, started_wall = time.process_time(), time.perf_counter()
    fitting, report = leave_out_unfit(read_trace(file), engine.usable_blocks, engine.block_size)
    result = simulate(fitting, resolve(strategy), engine, profile, backend="compiled", on_record=tally)
    cpu_s, wall_s = time.process_time() - started, time.perf_counter() - started_wall
    # Linux counts in KiB.
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(
        f"{size.num_gpu_blocks} blocks, {size.max_num_seqs} sequences, {strategy}, "
        f"{size.rate_rps} requests/s: "
        f"{tally.completed + report.left_out:,} requests read, {tally.completed:,} simulated, "
        f"{result.simulated_s / 3600:.0f} hours, {result.totals.steps:,} steps, "
        f"{result.totals.preemptions:,} preemptions, mean latency {tally.e2e_s / tally.completed:.2f} s\n"
        f"  {wall_s:.1f} s wall, {cpu_s:.1f} s CPU, {peak_mb:.0f} MB at most"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write and run; with --file, run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", default="azure-conv", metavar="FILE", help="default: the slice that ships")
    parser.add_argument("--requests", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--strategy", default="preempt-evict", metavar="NAME")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.file:
        run(options.file, SIZES[options.size], options.strategy)
        return 0
    for index, size in enumerate(SIZES):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.csv"
            write(file, extended(options.trace, options.requests, size.rate_rps))
            more = ["--file", str(file), "--size", str(index), "--strategy", options.strategy]
            print(f"a trace of {file.stat().st_size / 1e6:.0f} MB", flush=True)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.one_million", *more],
                check=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
