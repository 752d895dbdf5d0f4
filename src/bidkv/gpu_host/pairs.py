"""Policies compared with the engine's own order on a real engine, pair by pair, over identical requests.

    python -m bidkv.gpu_host.pairs DIRECTORY [DIRECTORY ...]

A directory holds the plan of :mod:`bidkv.gpu_host.replay` as ``plan.json`` and one result file per run.
Runs with the same ``pair`` belong together, and one engine made all runs of a directory. The tables are
Markdown. All pairs of a workload repeat the same requests, so an interval is about the machine and the
engine, not about the requests; simulations over many seeds are for those.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.calibration.replay_plan import read_runs
from bidkv.command_line import print_error, run_command
from bidkv.evaluation.figures import E2E_MEAN, E2E_P99, TAX, THROUGHPUT, TTFT_P99, Figure
from bidkv.evaluation.statistics import Interval, compare_pairs
from bidkv.evaluation.tables import markdown_table
from bidkv.results import RunResult, decode

PROG = "bidkv.gpu_host.pairs"

BASELINE = ENGINE_ORDER
"""The policy that all others are compared with."""

JUDGED = (E2E_MEAN, E2E_P99, TTFT_P99, THROUGHPUT)


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """The runs of one workload on one engine.

    Attributes:
        name: workload, rate and memory.
        runs: results by policy, then by pair.
    """

    name: str
    runs: dict[str, dict[int, RunResult]]

    def effect(self, policy: str, figure: Figure) -> Interval:
        """Return the change of a policy's figure against the engine's own order, over the pairs both ran.

        Raises:
            ValueError: there is no such pair, or a run has no such figure.
        """
        ours, theirs = self.runs[policy], self.runs[BASELINE]
        pairs = sorted(ours.keys() & theirs.keys())
        values = [[figure.read(side[pair].summary()) for pair in pairs] for side in (ours, theirs)]
        known = [[value for value in side if value is not None] for side in values]
        return compare_pairs(known[0], known[1])


def read_pairs(directory: Path) -> list[PairedRuns]:
    """Read the paired runs of a directory; runs without a `pair` or without a result are left out.

    Raises:
        OSError: no plan.
        ValueError: a broken plan or result file.
    """
    found: dict[str, PairedRuns] = {}
    for spec in read_runs(directory / "plan.json"):
        file = directory / f"{spec['name']}.json"
        if "pair" not in spec or not file.exists():
            continue
        name = _cell_name(spec)
        cell = found.setdefault(name, PairedRuns(name, {}))
        result = decode(file.read_text(encoding="utf-8"), str(file))
        cell.runs.setdefault(spec["policy"], {})[spec["pair"]] = result
    return list(found.values())


def table(all_cells: Sequence[PairedRuns]) -> str:
    """Return one row per workload and policy: the figures' changes with 95 % intervals, and the tax."""
    headings = ("workload", "policy", "pairs", *(figure.heading for figure in JUDGED), TAX.heading)
    return "\n".join(markdown_table(headings, [row for cell in all_cells for row in _rows(cell)]))


def _rows(cell: PairedRuns) -> Iterator[list[str]]:
    for policy, runs in cell.runs.items():
        effects = [
            "" if policy == BASELINE else str(cell.effect(policy, figure)).replace("no interval from ", "")
            for figure in JUDGED
        ]
        yield [cell.name, policy, str(len(runs)), *effects, TAX.show(_mean(runs, TAX))]


def _mean(runs: dict[int, RunResult], figure: Figure) -> float:
    values = [value for run in runs.values() if (value := figure.read(run.summary())) is not None]
    return sum(values) / len(values)


def _cell_name(spec: dict[str, Any]) -> str:
    rate_rps = spec["rate_rps"]
    arrivals = "all queued" if rate_rps is None else f"at {rate_rps:g}/s"
    return f"{spec['family']} {arrivals}, {spec['blocks']:,} blocks"


def command(
    directories: Annotated[list[Path], typer.Argument(metavar="DIRECTORY...", help="plans and results")],
) -> int:
    """Compare policies with the engine's own order on a real engine, pair by pair."""
    try:
        print(table([pairs for directory in directories for pairs in read_pairs(directory)]))
    except (OSError, ValueError) as error:
        return print_error(error)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
