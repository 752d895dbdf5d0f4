"""What every runner's `main` does: options to plan, plan to results, results to a verdict in the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from bidkv.command_line import FAILED, INTERRUPTED, make_command, print_error, run_command, say
from bidkv.command_line.config_file import (
    ConfigError,
    ConfigScope,
    find_config,
    read_config,
    with_config,
)
from bidkv.experiments.cli_args import (
    UsageError,
    choose_engine,
    make_plan,
    make_sim_driver,
    read_shard,
    unread_options,
)
from bidkv.experiments.driver import Driver, DriverError
from bidkv.experiments.execute import Tally, run_experiment
from bidkv.experiments.options import EngineKind, RunnerOptions, dashed_name, take_workload_rates
from bidkv.experiments.plan import Shard
from bidkv.experiments.store import Store, StoreError
from bidkv.workloads.resolver import known_workloads
from bidkv.workloads.traces import TraceError


def run_main(kind: EngineKind, argv: Sequence[str] | None = None, *, prog: str) -> int:
    """Run a runner's command line and return its exit code.

    It is 0, or 1 when a run failed, 2 for bad input, and 130 when the user stopped it.

    Args:
        kind: what it is about.
        argv: the arguments; None takes the process's own.
        prog: name of the command where its usage is shown.
    """
    workload_rates, rest = take_workload_rates(sys.argv[1:] if argv is None else argv)
    more = frozenset(f"{dashed_name(workload)}-rates" for workload in known_workloads())
    of_file = _rates_of_file(rest, more)
    rates = {f"{name}-rates": text for name, text in (of_file | workload_rates).items()}

    def run(given: RunnerOptions) -> int:
        return run_options(kind, given, of_file | workload_rates)

    about = ConfigScope("experiment", more, rates)
    return run_command(with_config(make_command(kind.options, run)), prog, rest, about)


def _rates_of_file(argv: Sequence[str], names: frozenset[str]) -> dict[str, str]:
    """Return the rates of single workloads that the file of `--config` states, by dashed workload name."""
    file = find_config(argv)
    if file is None:
        return {}
    try:
        stated = read_config(file, "experiment")
    except ConfigError:
        return {}  # the option's own reading says what is wrong
    found = {name: stated[name].value for name in names & stated.keys()}
    return {
        name.removesuffix("-rates"): ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in found.items()
    }


def run_options(kind: EngineKind, given: RunnerOptions, workload_rates: Mapping[str, str]) -> int:
    """Run the experiment that the options describe and return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = make_plan(given, kind, workload_rates)
        shard = read_shard(given)
        if unread := unread_options(given, kind):
            say(unread)
        if choose_engine(given, kind) == "sim":
            simulated = make_sim_driver(given, kind)
            say(simulated.about())
            driver: Driver = simulated
            store = Store.create(given.output_dir, plan)
        else:
            # First: where no engine is installed, no folder is made.
            driver = kind.real_driver(given, kind.engine_options(given), given.output_dir / "logs", say)
            store = Store.create(given.output_dir, plan)
        with driver:
            runs = sum(map(len, plan.share(shard)))
            say(f"{runs} runs: {', '.join(plan.strategies)} on {', '.join(map(str, plan.loads))}")
            tally = run_experiment(store, driver, say, shard=shard)
    except (UsageError, StoreError, DriverError, TraceError, OSError) as error:
        return print_error(error)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return INTERRUPTED
    _conclude(store, shard, tally)
    return FAILED if tally.failed else 0


def _conclude(store: Store, shard: Shard, tally: Tally) -> None:
    for cell, error in tally.failed:
        say(f"no result: {cell}: {error}")
    say(f"{tally.done} of {sum(map(len, store.plan.share(shard)))} runs have results in {store.folder}")
    try:
        from bidkv.experiments.analysis import analyze_store
        from bidkv.experiments.analysis_text import describe
    except ModuleNotFoundError as error:
        say(f"the verdict needs {error.name}: bidkv report {store.folder}, with the [experiments] extra")
        return
    if tally.done:
        print(describe(analyze_store(store)))


def _interrupt(number: int, frame: FrameType | None) -> None:
    # The way of Ctrl-C: context managers stop what was started.
    raise KeyboardInterrupt
