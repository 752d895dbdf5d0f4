"""Simulate replays made on a real engine: the error of every figure, and whether policies rank alike.

    python -m bidkv.calibration.validation --runs DIRECTORY --profile NAME [--order | --tails]

The directory holds the plan of :mod:`bidkv.gpu_host.replay` as ``plan.json`` and one result file per
run; a run's ``max_num_seqs`` (256) and ``async_scheduling`` (false) say how its engine was started. The
simulator is given the plan and the profile alone. Runs of a policy whose rules changed since they were made
say nothing about the simulator: ``--without`` leaves them out. All tables are Markdown.

The last column of the first table needs no simulation: after the last first token only decode steps are
left, of as many requests as the recorded timeline says, and the profile says how long those take. It tells a
machine that was slow during a run from a model that is wrong elsewhere. ``--tails`` prints only those
recorded steps: their milliseconds by the number of requests left, run by run, without a profile.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from bidkv.calibration.replay_plan import make_run_requests, read_runs
from bidkv.command_line import print_error, run_command
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.results import RunResult, TimelinePoint
from bidkv.results.codec import decode
from bidkv.simulator import EngineConfig, simulate

PROG = "bidkv.calibration.validation"

MAX_NUM_SEQS = 256
BLOCK_SIZE = 16
_FIGURES = ("throughput_rps", "e2e_mean_s", "e2e_p99_s", "ttft_p50_s", "ttft_p99_s", "recompute_tax")
_TAIL_REQUESTS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32))
ORDERED = ("e2e_mean_s", "recompute_tax", "throughput_rps")


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run on the real engine and the same run simulated.

    Attributes:
        name: of the run in its plan.
        policy: that decided.
        real: figures of the real run, by name; seconds, requests per second, shares.
        simulated: the same of the simulated one, and for both also `steps` and `preemptions`.
        decode_tail: the profile's time for the run's final decode steps over the recorded time, less 1.
    """

    name: str
    policy: str
    real: dict[str, float]
    simulated: dict[str, float]
    decode_tail: float

    def difference(self, figure: str) -> float:
        """Simulated against real: relative, for shares (`recompute_tax`) the plain difference."""
        gap = self.simulated[figure] - self.real[figure]
        return gap if figure == "recompute_tax" else gap / self.real[figure]


def compare_runs(
    directory: Path, profile: StepTimeProfile, *, without: Collection[str] = ()
) -> list[ComparedRun]:
    """Simulate every run of `directory` but those of the policies in `without`, in the order of its plan.

    Raises:
        OSError: the plan or a result is missing.
        ValueError: a plan that is no JSON list of runs, or a broken result file.
    """
    compared = []
    for spec in read_runs(directory / "plan.json"):
        if spec["policy"] in without:
            continue
        file = directory / f"{spec['name']}.json"
        real = decode(file.read_text(encoding="utf-8"), str(file))
        engine = EngineConfig(
            num_gpu_blocks=spec["blocks"],
            max_num_seqs=spec.get("max_num_seqs", MAX_NUM_SEQS),
            max_num_batched_tokens=spec["chunk"],
            async_scheduling=spec.get("async_scheduling", False),
        )
        run = simulate(make_run_requests(spec), resolve(spec["policy"]), engine, profile)
        tail = decode_tail(real, profile)
        compared.append(ComparedRun(spec["name"], spec["policy"], _figures(real), _figures(run), tail))
    return compared


def decode_tail(real: RunResult, profile: StepTimeProfile) -> float:
    """Return by how much `profile` exceeds the recorded time of the decode steps after the last first token.

    0.1 is 10 % more than recorded; NaN without two points of the timeline there.

    A window of the timeline counts with the mean of its two ends: requests, and tokens resident (blocks less
    the half block that a request leaves empty on average).
    """
    steps, windows = _tail(real)
    recorded_s = predicted_s = 0.0
    for first, last in windows:
        requests = (first.running + last.running) // 2
        context = BLOCK_SIZE * (first.used_blocks + last.used_blocks - requests) // 2
        predicted_s += steps * profile.step_s(0, 0.0, requests, context)
        recorded_s += last.time_s - first.time_s
    return predicted_s / recorded_s - 1.0 if recorded_s else float("nan")


def tail_table(directory: Path) -> str:
    """Return the milliseconds of decode steps after the last first token by requests left, one row per run.

    The median over the windows between two points of the timeline, and how many there are.

    Raises:
        OSError: the plan or a result is missing.
        ValueError: a plan that is no JSON list of runs, or a broken result file.
    """
    head = (f"{low}" if low == high else f"{low}-{high}" for low, high in _TAIL_REQUESTS)
    lines = [f"| run | {' | '.join(head)} |", "|---" * (len(_TAIL_REQUESTS) + 1) + "|"]
    for spec in read_runs(directory / "plan.json"):
        file = directory / f"{spec['name']}.json"
        steps, windows = _tail(decode(file.read_text(encoding="utf-8"), str(file)))
        cells = []
        for low, high in _TAIL_REQUESTS:
            found = [
                1e3 * (last.time_s - first.time_s) / steps
                for first, last in windows
                if low <= last.running and first.running <= high
            ]
            cells.append(f"{median(found):.2f} ({len(found)})" if found else "")
        lines.append(f"| {spec['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tail(real: RunResult) -> tuple[float, list[tuple[TimelinePoint, TimelinePoint]]]:
    """Return the steps between two points of the timeline, and the windows after the last first token."""
    since_s = max(record.first_token_s or 0.0 for record in real.records)
    points = [point for point in real.timeline if point.time_s > since_s and point.running]
    steps = real.totals.steps / max(1, len(real.timeline))
    return steps, list(pairwise(points))


def rank_agreement(compared: Sequence[ComparedRun], figure: str, noise: float) -> tuple[float, int]:
    """Return Kendall's tau of the policies' order by `figure`, and the number of pairs behind it.

    tau is 1 where every pair has the same order in both, -1 where every pair is reversed; NaN without a pair.

    Pairs of runs whose real figures differ by less than `noise` (a share of the larger) have no order that a
    single run could show and are left out.
    """
    agreeing = total = 0
    for one, other in combinations(compared, 2):
        real = one.real[figure] - other.real[figure]
        if abs(real) <= noise * max(abs(one.real[figure]), abs(other.real[figure])):
            continue
        simulated = one.simulated[figure] - other.simulated[figure]
        total += 1
        agreeing += 1 if real * simulated > 0.0 else -1
    return (agreeing / total if total else float("nan")), total


def closeness_table(compared: Sequence[ComparedRun]) -> str:
    """Return the error of every figure as Markdown, one row per run."""
    lines = [
        "| run | steps, preemptions: real | simulated | req/s | throughput | mean e2e | p99 e2e "
        "| TTFT p50 | TTFT p99 | tax, points | final decode steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in compared:
        counts = " | ".join(
            f"{side['steps']:.0f}, {side['preemptions']:.0f}" for side in (row.real, row.simulated)
        )
        gaps = " | ".join(
            f"{100 * row.difference(figure):+.1f}{'' if figure == 'recompute_tax' else ' %'}"
            for figure in _FIGURES
        )
        tail = f"{100 * row.decode_tail:+.1f} %"
        lines.append(f"| {row.name} | {counts} | {row.real['throughput_rps']:.2f} | {gaps} | {tail} |")
    return "\n".join(lines)


def order_table(compared: Sequence[ComparedRun], noise: float) -> str:
    """Return real and simulated figures by policy as Markdown, and how well their orders agree.

    Args:
        compared: one run of each policy, all of the same requests on the same engine.
        noise: share of a figure below which two runs have no order, see :func:`rank_agreement`.
    """
    lines = ["| policy | mean e2e s: real, simulated | tax: real, simulated | req/s: real, simulated |"]
    lines.append("|---|---|---|---|")
    for row in compared:
        cells = " | ".join(f"{row.real[f]:.3f}, {row.simulated[f]:.3f}" for f in ORDERED)
        lines.append(f"| {row.policy} | {cells} |")
    taus = []
    for figure in ORDERED:
        tau, pairs = rank_agreement(compared, figure, noise)
        every, _ = rank_agreement(compared, figure, 0.0)
        taus.append(f"{tau:+.2f} ({pairs} pairs; all {every:+.2f})")
    lines.append(f"| Kendall's tau | {' | '.join(taus)} |")
    return "\n".join(lines)


def _figures(result: RunResult) -> dict[str, float]:
    summary = result.summary()
    return {
        "throughput_rps": summary["throughput_rps"],
        "e2e_mean_s": summary["e2e_s"]["mean"],
        "e2e_p99_s": summary["e2e_s"]["p99"],
        "ttft_p50_s": summary["ttft_s"]["p50"],
        "ttft_p99_s": summary["ttft_s"]["p99"],
        "recompute_tax": summary["recompute_tax"],
        "steps": summary["steps"],
        "preemptions": summary["preemptions"],
    }


def command(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="plan.json and one result file per run")],
    profile: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="step-time profile; --tails needs none")
    ] = None,
    without: Annotated[
        str,
        typer.Option(
            metavar="POLICY[,...]", help="leave out runs of policies whose rules have changed since"
        ),
    ] = "",
    tails: Annotated[
        bool, typer.Option("--tails", help="print the recorded final decode steps alone")
    ] = False,
    order: Annotated[bool, typer.Option("--order", help="compare the order of the policies instead")] = False,
    noise: Annotated[float, typer.Option(metavar="X", help="smaller differences have no order")] = 0.02,
) -> int:
    """Simulate the runs that a real engine made; print how far apart they are."""
    if profile is None and not tails:
        return print_error("expected --profile or --tails")
    try:
        if profile is None or tails:
            print(tail_table(runs))
            return 0
        compared = compare_runs(runs, load_profile(profile), without=without.split(","))
    except (OSError, ValueError) as error:
        return print_error(error)
    print(order_table(compared, noise) if order else closeness_table(compared))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
