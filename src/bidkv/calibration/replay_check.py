"""A recorded run of a real engine, replayed in the simulator, and how far apart the two are.

    python -m bidkv.calibration.replay_check --requests run.requests.csv --steps run.steps.csv --profile NAME

`--requests` holds one row per request (columns arrival, prompt, output, finish: seconds from the start of the
run, and tokens), `--steps` one row per engine step (columns tokens, preempted, lost: tokens scheduled,
requests preempted, and the computed tokens those lost). The replay knows only the requests and the engine's
options.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.command_line import print_error, run_command
from bidkv.policy import resolve
from bidkv.profiles import ProfileError, StepTimeProfile, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads.traces import TraceError
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.table import read_rows
from bidkv.workloads.traces.values import parse_tokens

PROG = "bidkv.calibration.replay_check"


@dataclass(frozen=True, slots=True)
class Recording:
    """What a real engine was given and what it did.

    Attributes:
        requests: the workload, in the order of arrival.
        throughput_rps: completed requests per second, first arrival to last finish.
        e2e_mean_s: mean end-to-end latency.
        recompute_tax: share of the scheduled tokens that had been computed before.
        preemptions: of all requests.
        steps: engine steps.
    """

    requests: tuple[WorkloadRequest, ...]
    throughput_rps: float
    e2e_mean_s: float
    recompute_tax: float
    preemptions: int
    steps: int


@dataclass(frozen=True, slots=True)
class FigureComparison:
    """One figure, recorded and replayed.

    Attributes:
        figure: its name, with its unit.
        recorded: on the real engine.
        replayed: in the simulator.
        absolute: whether :attr:`difference` is the plain difference (figures that are shares).
    """

    figure: str
    recorded: float
    replayed: float
    absolute: bool = False

    @property
    def difference(self) -> float:
        """Replayed against recorded, signed: relative to the recorded value unless :attr:`absolute`."""
        gap = self.replayed - self.recorded
        return gap if self.absolute else gap / self.recorded


def read_recording(requests_file: Path, steps_file: Path) -> Recording:
    """Read the two files of a recorded run in which every request completed.

    Every token a preempted request lost is computed again before it completes, so the tokens lost are the
    tokens recomputed.

    Args:
        requests_file: CSV with a row for each request: `arrival` and `finish` in seconds of one clock,
            `prompt` and `output` in tokens.
        steps_file: CSV with one row a step: `tokens` scheduled, requests `preempted`, computed tokens `lost`.

    Raises:
        OSError: a file cannot be read.
        TraceError: a broken row; the message names file, line, field and what was expected.
    """
    requests = []
    finishes = []
    file = str(requests_file)
    for number, cells in read_rows(requests_file, ("arrival", "prompt", "output", "finish")):
        arrival, prompt, output, finish = cells
        requests.append(
            WorkloadRequest(
                f"r{number - 2}",
                _seconds(file, number, "arrival", arrival),
                parse_tokens(file, number, "prompt", prompt),
                parse_tokens(file, number, "output", output),
            )
        )
        finishes.append(_seconds(file, number, "finish", finish))
        if finishes[-1] <= requests[-1].arrival_s:
            fail(file, number, "finish", "a time after the arrival", finish)
    file = str(steps_file)
    tokens = preemptions = lost = steps = 0
    for number, cells in read_rows(steps_file, ("tokens", "preempted", "lost")):
        scheduled, preempted, gone = (
            _count(file, number, name, cell)
            for name, cell in zip(("tokens", "preempted", "lost"), cells, strict=True)
        )
        tokens, preemptions, lost, steps = tokens + scheduled, preemptions + preempted, lost + gone, steps + 1
    if tokens == 0:
        fail(file, 0, "tokens", "at least one scheduled token")
    latencies = [finish - request.arrival_s for request, finish in zip(requests, finishes, strict=True)]
    return Recording(
        requests=tuple(sorted(requests, key=lambda request: request.arrival_s)),
        throughput_rps=len(requests) / (max(finishes) - min(request.arrival_s for request in requests)),
        e2e_mean_s=sum(latencies) / len(latencies),
        recompute_tax=lost / tokens,
        preemptions=preemptions,
        steps=steps,
    )


def replay(recording: Recording, profile: StepTimeProfile, engine: EngineConfig) -> list[FigureComparison]:
    """Replay a recording's requests under the engine's own rules and compare the figures.

    Args:
        recording: of a run of the real engine.
        profile: step times of the machine it ran on.
        engine: the options it ran with.
    """
    result = simulate(recording.requests, resolve(ENGINE_ORDER), engine, profile)
    summary = result.summary()
    return [
        FigureComparison("throughput, req/s", recording.throughput_rps, summary["throughput_rps"]),
        FigureComparison("mean end-to-end latency, s", recording.e2e_mean_s, summary["e2e_s"]["mean"]),
        FigureComparison("recompute tax", recording.recompute_tax, summary["recompute_tax"], absolute=True),
        FigureComparison("preemptions", recording.preemptions, summary["preemptions"]),
        FigureComparison("steps", recording.steps, summary["steps"]),
    ]


def render(comparisons: Sequence[FigureComparison]) -> str:
    """Lay the comparison out as a table of plain text."""
    lines = [f"{'figure':<28}{'recorded':>12}{'replayed':>12}{'difference':>14}"]
    for row in comparisons:
        gap = f"{100 * row.difference:+.2f} {'points' if row.absolute else '%'}"
        lines.append(f"{row.figure:<28}{row.recorded:>12.4g}{row.replayed:>12.4g}{gap:>14}")
    return "\n".join(lines)


def command(
    requests: Annotated[Path, typer.Option(metavar="FILE", help="the run's requests, CSV")],
    steps: Annotated[Path, typer.Option(metavar="FILE", help="the run's engine steps, CSV")],
    profile: Annotated[str, typer.Option(metavar="NAME|FILE", help="step-time profile")],
    num_gpu_blocks: Annotated[int, typer.Option(metavar="N", help="null block included")] = 600,
    block_size: Annotated[int, typer.Option(metavar="N", help="tokens per block")] = 16,
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="most requests at once")] = 32,
    max_num_batched_tokens: Annotated[int, typer.Option(metavar="N", help="token budget of a step")] = 2048,
) -> int:
    """Replay a recorded run of a real engine in the simulator; print how far apart they are."""
    try:
        engine = EngineConfig(
            num_gpu_blocks=num_gpu_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
        )
        recording = read_recording(requests, steps)
        step_times = load_profile(profile)
    except (TraceError, ProfileError, ValueError) as error:
        return print_error(error)
    print(render(replay(recording, step_times, engine)))
    return 0


def _seconds(file: str, number: int, column: str, cell: bytes) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        fail(file, number, column, "seconds >= 0", cell)
    return value


def _count(file: str, number: int, column: str, cell: bytes) -> int:
    digits = cell.strip()
    if not digits.isdigit() or len(digits) > 12:
        fail(file, number, column, "a whole number >= 0", cell)
    return int(digits)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
