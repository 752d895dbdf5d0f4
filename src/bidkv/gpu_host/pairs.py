"""Policies against the engine's own order on a real engine, pair by pair, from replays of identical requests.

    python -m bidkv.gpu_host.pairs DIRECTORY [DIRECTORY ...]

A directory holds the plan of :mod:`bidkv.gpu_host.replay` as ``plan.json`` and one result file a run;
runs with the same ``pair`` belong together, and those of one directory were made by one engine. The tables
are Markdown. All pairs of a cell repeat the same requests, so that an interval is about the machine and the
engine, not about which requests came: that is what simulations over many seeds are for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidkv.baselines import ENGINE_ORDER
from bidkv.calibration.validation import read_runs
from bidkv.evaluation.figures import E2E_MEAN, E2E_P99, TAX, THROUGHPUT, TTFT_P99, Figure
from bidkv.evaluation.statistics import Interval, compare_pairs
from bidkv.evaluation.tables import markdown_table
from bidkv.results import RunResult, decode

BASELINE = ENGINE_ORDER
JUDGED = (E2E_MEAN, E2E_P99, TTFT_P99, THROUGHPUT)


@dataclass(frozen=True, slots=True)
class Cell:
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


def cells(directory: Path) -> list[Cell]:
    """Read the paired runs of a directory; runs without a `pair`, or not made, are left out.

    Raises:
        OSError: no plan there.
        ValueError: a plan or a result file that is none.
    """
    found: dict[str, Cell] = {}
    for spec in read_runs(directory / "plan.json"):
        file = directory / f"{spec['name']}.json"
        if "pair" not in spec or not file.exists():
            continue
        name = _cell_name(spec)
        cell = found.setdefault(name, Cell(name, {}))
        result = decode(file.read_text(encoding="utf-8"), str(file))
        cell.runs.setdefault(spec["policy"], {})[spec["pair"]] = result
    return list(found.values())


def table(all_cells: Sequence[Cell]) -> str:
    """Return one row a cell and policy: the figures' changes with 95 % intervals, and both taxes."""
    headings = ("workload", "policy", "pairs", *(figure.heading for figure in JUDGED), TAX.heading)
    return "\n".join(markdown_table(headings, [row for cell in all_cells for row in _rows(cell)]))


def _rows(cell: Cell) -> Iterator[list[str]]:
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
    return f"{spec['family']} at {spec['rate_rps']:g}/s, {spec['blocks']:,} blocks"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bidkv.gpu_host.pairs",
        description="Policies against the engine's own order on a real engine, pair by pair.",
    )
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIRECTORY", help="plan and results")
    try:
        print(table([cell for directory in parser.parse_args(argv).directories for cell in cells(directory)]))
    except (OSError, ValueError) as error:
        print(f"bidkv.gpu_host.pairs: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
