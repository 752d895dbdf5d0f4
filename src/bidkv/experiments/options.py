"""The command line that all runners share: from its words to a plan and a driver."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidkv.experiments.saturation_rate import FRACTIONS
from bidkv.experiments.simulated_driver import SimConfig
from bidkv.profiles import DEFAULT_PROFILE
from bidkv.workloads.resolver import DEFAULT_SEED, known_workloads

DEFAULT_RATES = {"mixed": (2.0, 3.8, 5.7)}
_RATES_HELP = (
    f"Where no rates are named: {', '.join(map(str, FRACTIONS))} of the throughput at which a simulated H100 "
    "saturates on the workload with the same blocks and sequences; for mixed "
    f"{', '.join(map(str, DEFAULT_RATES['mixed']))} requests a second."
)


@dataclass(frozen=True, slots=True)
class EngineOption:
    """An option that is passed on to a real engine under its own name.

    Attributes:
        flag: as the engine spells it.
        kind: of its value.
        help: one line.
    """

    flag: str
    kind: Callable[[str], Any]
    help: str

    @property
    def name(self) -> str:
        """The attribute argparse keeps it in."""
        return self.flag.lstrip("-").replace("-", "_")


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What a runner's command line is about.

    Attributes:
        prog: what messages call the command.
        name: of the real engine, "vllm" or "sglang"; `--engine sim` runs the same on the simulator.
        options: what the real engine takes.
        simulated: reads the options that the simulator has too; raises ValueError for impossible ones.
    """

    prog: str
    name: str
    options: Sequence[EngineOption]
    simulated: Callable[[argparse.Namespace], SimConfig]


def stated(value: Any, default: Any) -> Any:
    """Return an option's value, or the default where it was not given."""
    return default if value is None else value


def make_parser(kind: EngineKind) -> argparse.ArgumentParser:
    """Return the parser of one runner."""
    parser = argparse.ArgumentParser(
        prog=kind.prog,
        description=(
            "Runs every strategy on every workload at every rate, in alternating order, and keeps each "
            "result.\nThe same command goes on where an interrupted one stopped."
        ),
        epilog=_RATES_HELP,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--strategies",
        required=True,
        metavar="A,B",
        help="policies by name; the first, or preempt-evict "
        "or sglang-default where named, is the baseline; one named twice is an A/A comparison",
    )
    add(
        "--workloads",
        default="mixed",
        metavar="A,B",
        help=f"{', '.join(known_workloads())}; or trace files (default: mixed)",
    )
    add("--rates", metavar="R,R", help="mean arrivals a second, for workloads without a --WORKLOAD-rates")
    for dashed in dict.fromkeys(map(dashed_name, known_workloads())):
        flags = dict.fromkeys((f"--{dashed}-rates", f"--{dashed.replace('-', '_')}-rates"))
        add(*flags, dest=f"rates:{dashed}", metavar="R,R", help=argparse.SUPPRESS)
    add("--runs", type=int, default=3, metavar="N", help="repetitions, each with other requests (default: 3)")
    add("--requests", type=int, default=250, metavar="N", help="requests of a run (default: 250)")
    add(
        "--seed",
        type=int,
        default=DEFAULT_SEED,
        metavar="S",
        help=f"of the first repetition's requests (default: {DEFAULT_SEED}, held out from tuning)",
    )
    add("--output-dir", type=Path, required=True, metavar="DIR", help="where everything is kept")
    add(
        "--shard",
        default="1/1",
        metavar="K/N",
        help="run only every N-th block, from the K-th on; machines that each run one share of the same plan "
        "make a whole when their runs/ folders are copied into one (default: 1/1)",
    )
    add(
        "--engine",
        choices=(kind.name, "sim"),
        default=kind.name,
        help=f"sim runs the same experiment on the simulator (default: {kind.name})",
    )
    real = parser.add_argument_group(f"the {kind.name} server")
    for option in kind.options:
        real.add_argument(option.flag, type=option.kind, metavar="X", help=option.help)
    real.add_argument("--server-args", default="", metavar="'...'", help="further words for the server")
    real.add_argument(
        "--warmup",
        type=int,
        default=8,
        metavar="N",
        help="requests sent before each run, not measured (default: 8)",
    )
    real.add_argument(
        "--drain-s",
        type=float,
        default=300.0,
        metavar="S",
        help="after the last arrival, wait this long, then cancel what is left (default: 300)",
    )
    real.add_argument(
        "--send-lag-limit-ms",
        type=float,
        default=50.0,
        metavar="MS",
        help="a run whose p99 of send lag is above this is no result (default: 50)",
    )
    real.add_argument(
        "--restart",
        action="store_true",
        help="a fresh server for every run, instead of one that is told to switch policies",
    )
    sim = parser.add_argument_group("the simulator (--engine sim)")
    sim.add_argument("--profile", default=DEFAULT_PROFILE, help="step-time profile (default: %(default)s)")
    sim.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="F",
        help="relative spread of a run's speed, with late arrivals, as on real machines (default: 0)",
    )
    sim.add_argument("--jobs", type=int, metavar="N", help="processes (default: every core)")
    sim.add_argument(
        "--backend",
        choices=("loky", "ray", "dask"),
        default="loky",
        help="loky: this machine; ray, dask: the connected cluster (default: loky)",
    )
    return parser


def dashed_name(workload: str) -> str:
    """Return a workload's name as options spell it: dashes for underscores, so both spellings are one."""
    return workload.replace("_", "-")
