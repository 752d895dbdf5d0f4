"""`python -m bidkv.experiments.load_generator`: apply a workload to a server and write what was seen."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from bidkv.experiments.load_client import replay
from bidkv.experiments.load_samples import LoadReport, write_samples
from bidkv.experiments.request_bodies import PATHS, prepare
from bidkv.workloads.traces import TraceError, read_trace


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="bidkv.experiments.load_generator", description=__doc__)
    add = parser.add_argument
    add("--url", required=True, help="of the server, without a path")
    add("--dialect", choices=sorted(PATHS), required=True, help="whose requests to send")
    add("--model", required=True, help="the model's name, as the server calls it")
    add("--vocabulary", type=int, required=True, help="token ids are below this")
    add("--workload", type=Path, required=True, help="a trace file; its times are kept as they are")
    add("--salt", default="", help="other text, other prompt tokens")
    add("--drain-s", type=float, default=300.0, help="wait this long after the last request was due")
    add("--output", type=Path, required=True, help="JSON lines: a report, then a sample a request")
    given = parser.parse_args(argv)
    try:
        requests = list(read_trace(given.workload))
        prepared = prepare(requests, given.dialect, given.model, given.vocabulary, given.salt)
    except (TraceError, ValueError) as error:
        print(f"bidkv.experiments.load_generator: error: {error}", file=sys.stderr)
        return 2
    # A collection in the middle of the run would make requests late.
    gc.collect()
    gc.freeze()
    gc.disable()
    start_s, samples = asyncio.run(replay(given.url, given.dialect, prepared, given.drain_s))
    write_samples(given.output, LoadReport.of(start_s, samples), samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
