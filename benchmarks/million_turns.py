"""One million turns of `agents` sessions, simulated in closed loop with prefix caching.

    python -m benchmarks.million_turns [--turns N] [--concurrent N] [--strategy NAME]

Prints turns per CPU second and the most memory that the process ever held: Python, numba, sessions and run.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.simulator import EngineConfig, SessionSource, simulate
from bidkv.workloads import generate_sessions

ENGINE = EngineConfig(num_gpu_blocks=8192, max_num_seqs=256, enable_prefix_caching=True)


class _PackedSessions(Sequence[Session]):
    """Sessions as bytes, made into objects while they are alive: a million turns as objects are 230 MB."""

    def __init__(self, turns: int) -> None:
        self._packed: list[bytes] = []
        for session in generate_sessions("agents", n=turns, seed=1):
            self._packed.append(pickle.dumps(session))
            turns -= len(session.turns)
            if turns <= 0:
                break
        self._unpack = lru_cache(maxsize=1024)(lambda index: pickle.loads(self._packed[index]))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: Any) -> Any:
        return self._unpack(index)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def main() -> None:
    """Make the sessions, run them and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--concurrent", type=int, default=12, metavar="N")
    parser.add_argument("--strategy", default="preempt-evict", metavar="NAME")
    options = parser.parse_args()
    profile = load_profile("h100-llama3.1-8b")
    warm = [WorkloadRequest("warm", 0.0, 100, 10)]
    simulate(warm, resolve(options.strategy), ENGINE, profile, backend="compiled")
    before_mb = _peak_mb()
    sessions = _PackedSessions(options.turns)
    made_mb = _peak_mb()
    arrivals = SessionArrivals.at_concurrency(options.concurrent, stagger_s=0.2)
    counted = [0]

    def count(record: object) -> None:
        counted[0] += 1

    source = SessionSource(sessions, arrivals)
    started = time.process_time()
    result = simulate(
        source,
        resolve(options.strategy),
        ENGINE,
        profile,
        backend="compiled",
        on_record=count,
    )
    cpu_s = time.process_time() - started
    print(
        f"{counted[0]:,} turns of {len(sessions):,} sessions, {options.strategy}: {cpu_s:.1f} s CPU, "
        f"{counted[0] / cpu_s:,.0f} turns per CPU second, {result.totals.steps:,} steps\n"
        f"memory at most {_peak_mb():.0f} MB: {before_mb:.0f} MB before, {made_mb:.0f} MB with the sessions"
    )


if __name__ == "__main__":
    main()
