"""What every runner's `main` does: words to plan, plan to results, results to a verdict in the terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from bidkv.experiments.cli_args import UsageError, plan_of, shard_of, sim_driver
from bidkv.experiments.driver import Driver, DriverError
from bidkv.experiments.execute import Tally, run_experiment
from bidkv.experiments.options import EngineKind, make_parser
from bidkv.experiments.plan import Shard
from bidkv.experiments.store import Store, StoreError
from bidkv.workloads.traces import TraceError

FAILED, BAD_INPUT = 1, 2


RealDriver = Callable[[argparse.Namespace, Store, Callable[[str], None]], Driver]


def run_main(kind: EngineKind, real_driver: RealDriver, argv: Sequence[str] | None = None) -> int:
    """Run a runner's command line and return its exit code: 0, 1 when a run failed, 2 for bad input.

    Args:
        kind: what it is about.
        real_driver: makes the real engine's driver; raises DriverError when it cannot be driven.
        argv: the words; None takes the process's own.
    """
    given = make_parser(kind).parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    try:
        plan = plan_of(given, kind)
        shard = shard_of(given)
        if given.engine == "sim":
            driver: Driver = sim_driver(given, kind)
            store = Store.create(given.output_dir, plan)
        else:
            # Before the folder is made: without a model there is nothing to keep.
            require_model(given, kind.name)
            store = Store.create(given.output_dir, plan)
            driver = real_driver(given, store, _say)
        with driver:
            runs = sum(map(len, plan.share(shard)))
            _say(f"{runs} runs: {', '.join(plan.strategies)} on {', '.join(map(str, plan.loads))}")
            tally = run_experiment(store, driver, _say, shard=shard)
    except (UsageError, StoreError, DriverError, TraceError, OSError) as error:
        print(f"{kind.prog}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        return FAILED
    _conclude(store, shard, tally)
    return FAILED if tally.failed else 0


def require_model(given: argparse.Namespace, engine: str) -> None:
    """Raise UsageError unless a model is named: none is ever chosen, let alone fetched, for the user."""
    if given.model is None:
        raise UsageError(
            f"--model: a real {engine} server needs a model; give --model DIR (a folder with config.json and "
            "weights) or a model's name that is in the local cache; --engine sim runs without one"
        )


def _conclude(store: Store, shard: Shard, tally: Tally) -> None:
    for cell, error in tally.failed:
        _say(f"no result: {cell}: {error}")
    _say(f"{tally.done} of {sum(map(len, store.plan.share(shard)))} runs have results in {store.folder}")
    try:
        from bidkv.experiments.analysis import outcome_of
    except ModuleNotFoundError as error:
        _say(f"the verdict needs {error.name}: bidkv report {store.folder}, with the [experiments] extra")
        return
    if tally.done:
        print(outcome_of(store).text())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    # The way of Ctrl-C: context managers stop what was started.
    raise KeyboardInterrupt
