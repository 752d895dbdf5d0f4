"""The options that all runners share, declared once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from bidkv.command_line.file_options import FileOptions
from bidkv.experiments.driver import Driver
from bidkv.experiments.load_samples import DEFAULT_SEND_LAG_LIMIT_MS
from bidkv.experiments.simulated_driver import SimConfig
from bidkv.profiles import DEFAULT_PROFILE
from bidkv.workloads.resolver import DEFAULT_SEED, known_session_workloads, known_workloads

DEFAULT_RATES = {"mixed": (2.0, 3.8, 5.7)}
"""Requests per second on a real engine where no rates are given; other workloads get shares of saturation."""

LOAD_SHARES = (0.8, 1.0, 1.3)
"""Shares of the saturation rate that make the default rates: below it, at it, and overloaded."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions(FileOptions):
    """Run every strategy on every workload at every rate, in alternating order, and keep each result.

    The same command continues where an interrupted one stopped.

    Where no rates are given: 0.8, 1.0, 1.3 of the throughput at which a simulated H100 saturates on the
    workload with the same blocks and sequences; for mixed on a real engine 2.0, 3.8, 5.7 requests a second.
    --WORKLOAD-rates gives the rates of one workload. Sizes of a simulated engine that are not stated are
    those of a real vLLM server on the GPU of --profile, as in bidkv simulate; the first line says which.
    """

    strategies: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="policies by name; the first, or preempt-evict or sglang_default where named, is the "
            "baseline; one named twice is an A/A comparison",
        ),
    ]
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="where everything is kept")]
    workloads: Annotated[
        str,
        typer.Option(
            "--workloads",
            "--workload",
            metavar="A,B",
            help=f"single requests: {', '.join(known_workloads())}; or trace files; "
            f"sessions: {', '.join(known_session_workloads())}",
        ),
    ] = "mixed"
    rates: Annotated[
        str | None,
        typer.Option(metavar="R,R", help="mean arrivals a second, for workloads without --WORKLOAD-rates"),
    ] = None
    concurrent_sessions: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="sessions alive at once, each end starting the next, in place of rates",
        ),
    ] = None
    session_stagger_s: Annotated[
        float, typer.Option(metavar="S", help="seconds between the starts of the first concurrent sessions")
    ] = 0.2
    duration_s: Annotated[
        float | None,
        typer.Option(metavar="S", help="sessions: cut a run after S seconds, unfinished turns not counted"),
    ] = None
    untold: Annotated[
        bool,
        typer.Option("--untold", help="sessions: not named by clients; policies find them by their prefix"),
    ] = False
    endpoint: Annotated[
        str,
        typer.Option(metavar="completions|chat", help="sessions: send token ids, or chat messages"),
    ] = "completions"
    runs: Annotated[int, typer.Option(metavar="N", help="repetitions, each with other requests")] = 3
    requests: Annotated[int, typer.Option(metavar="N", help="requests, or sessions, of a run")] = 250
    seed: Annotated[
        int, typer.Option(metavar="S", help="of the first repetition's requests; held out from tuning")
    ] = DEFAULT_SEED
    shard: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="run only every N-th group of runs, from the K-th on; machines that each run one share of "
            "the same plan make a whole when their runs/ folders are copied into one",
        ),
    ] = "1/1"
    engine: Annotated[
        str | None, typer.Option(metavar="ENGINE", help="sim runs the same experiment on the simulator")
    ] = None
    server_args: Annotated[
        str, typer.Option(metavar="'...'", help="real server: further arguments of its own")
    ] = ""
    warmup: Annotated[
        int, typer.Option(metavar="N", help="real server: requests sent before each run, not measured")
    ] = 8
    drain_s: Annotated[
        float,
        typer.Option(
            metavar="S", help="real server: seconds after the last arrival at which what is left is cancelled"
        ),
    ] = 300.0
    send_lag_limit_ms: Annotated[
        float,
        typer.Option(
            metavar="MS", help="real server: a run whose p99 send lag is above this is not a result"
        ),
    ] = DEFAULT_SEND_LAG_LIMIT_MS
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="real server: a fresh one for every run, instead of one that switches policies"
        ),
    ] = False
    profile: Annotated[str, typer.Option(metavar="NAME|FILE", help="simulator: step-time profile")] = (
        DEFAULT_PROFILE
    )
    noise: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="simulator: relative spread of a run's speed, with late arrivals, as on real machines",
        ),
    ] = 0.0
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="simulator: processes; every core unless given")
    ] = None
    backend: Annotated[
        str,
        typer.Option(
            metavar="loky|ray|dask",
            help="simulator: this machine (loky), or the connected cluster (ray, dask)",
        ),
    ] = "loky"


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What a runner's command line is about.

    Attributes:
        name: of the real engine, "vllm" or "sglang"; `--engine sim` runs the same on the simulator.
        options: the shared options and the real engine's own.
        simulated: reads the options that the simulator has too; raises ValueError for impossible ones.
        real_driver: makes the real engine's driver from all options, the engine's own, a folder for logs, and
            what takes lines of progress; raises DriverError when the engine cannot be driven.
    """

    name: str
    options: type[RunnerOptions]
    simulated: Callable[[Any], SimConfig]
    real_driver: Callable[[RunnerOptions, Mapping[str, Any], Path, Callable[[str], None]], Driver]

    def engine_options(self, given: RunnerOptions) -> dict[str, Any]:
        """Return the engine's own options that were given, by their name in Python."""
        shared = {field.name for field in fields(RunnerOptions)}
        own = [field.name for field in fields(self.options) if field.name not in shared]
        return {name: value for name in own if (value := getattr(given, name)) is not None}


def value_or(value: Any, default: Any) -> Any:
    """Return an option's value, or the default where it was not given."""
    return default if value is None else value


def dashed_name(workload: str) -> str:
    """Return a workload's name as options spell it: dashes for underscores."""
    return workload.replace("_", "-")


def take_workload_rates(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take the `--WORKLOAD-rates` options out of a command line.

    Returns:
        The texts of the rates by dashed workload name, and the remaining arguments. An option without a value
        remains, so that typer reports it.

    >>> take_workload_rates(["--runs", "3", "--mixed-rates", "2,4", "--multi_turn-rates=1"])
    ({'mixed': '2,4', 'multi-turn': '1'}, ['--runs', '3'])
    """
    names = {dashed_name(workload) for workload in known_workloads()}
    flags = {f"--{name}-rates": name for name in names}
    flags |= {f"--{name.replace('-', '_')}-rates": name for name in names}
    rates: dict[str, str] = {}
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, text = argument.partition("=")
        if flag not in flags:
            rest.append(argument)
        elif equals:
            rates[flags[flag]] = text
        elif (value := next(arguments, None)) is not None:
            rates[flags[flag]] = value
        else:
            rest.append(argument)
    return rates, rest
