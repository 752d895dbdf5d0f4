"""Session replays of a real engine: policies against the engine's own order, and against the simulator.

    python -m bidkv.gpu_host.session_pairs DIRECTORY [--profile NAME] [--sessions-from DIR]

The directory holds the result files of :mod:`bidkv.gpu_host.sessions`. Runs with the same workload and
``pair`` belong together. The tables are Markdown; all figures are those of the runs' windows, after their
warm-up. With a profile every run is simulated too: the same sessions, policy and engine options, cut at the
same moments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.command_line import print_error, run_command
from bidkv.evaluation.tables import markdown_table
from bidkv.gpu_host.session_plan import SessionRun
from bidkv.gpu_host.sessions import fit_sessions, sessions_for_run
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.sessions import SessionArrivals
from bidkv.results import RequestRecord, decode
from bidkv.simulator import EngineConfig, simulate_sessions
from bidkv.workloads.traces import TraceError

PROG = "bidkv.gpu_host.session_pairs"

_FIGURES = {
    "turns/s": ("turns_per_s",),
    "sessions completed": ("completed",),
    "mean turn": ("turn_s", "mean"),
    "p99 turn": ("turn_s", "p99"),
    "tokens computed per new one": ("computed_per_new_token",),
}
"""Headings of the compared figures, and where they stand in a window's session figures."""


DEFAULT_BLOCKS = 20_000
"""KV blocks of the simulated engine where a run states none: those of scripts/gpu_sessions.sh."""


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One run and what its file says of its window."""

    run: SessionRun
    window: dict[str, Any]

    def read(self, heading: str) -> float | None:
        """Return a figure of :data:`_FIGURES`; None when it was not measured."""
        value: Any = self.window["sessions"]
        for name in _FIGURES[heading]:
            value = None if value is None else value[name]
        return None if value is None else float(value)


def read_results(directory: Path) -> list[SessionResult]:
    """Read the result files of a directory, by workload and pair.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a result of a session replay, or there is none.
    """
    results = []
    for file in sorted(directory.glob("*.json")):
        if file.name.startswith("engine-"):
            continue
        notes = decode(file.read_bytes(), str(file)).notes
        if "window" not in notes or "run" not in notes:
            raise ValueError(f"{file}: expected the result of a session replay")
        results.append(SessionResult(SessionRun(**notes["run"]), notes["window"]))
    if not results:
        raise ValueError(f"{directory}: no result files")
    return sorted(results, key=lambda result: (result.run.workload, result.run.pair))


def pairs_table(results: Sequence[SessionResult]) -> list[str]:
    """Return one row per workload and policy: means over runs, and changes with intervals over pairs."""
    from bidkv.evaluation.statistics import compare_pairs

    groups: dict[tuple[str, str], dict[int, SessionResult]] = {}
    for result in results:
        run = result.run
        groups.setdefault((run.workload, _policy_label(run)), {})[run.pair] = result
    rows = []
    for (workload, policy), runs in groups.items():
        base = groups.get((workload, ENGINE_ORDER), {})
        cells = []
        for heading in _FIGURES:
            values = [value for each in runs.values() if (value := each.read(heading)) is not None]
            text = f"{fmean(values):.3g}" if values else "-"
            both = [
                (ours, theirs)
                for pair in sorted(runs.keys() & base.keys())
                if (ours := runs[pair].read(heading)) is not None
                and (theirs := base[pair].read(heading)) is not None
            ]
            if both and policy != ENGINE_ORDER:
                change = str(compare_pairs([x for x, _ in both], [y for _, y in both]))
                text += f": {change.replace('no interval from ', '')}"
            cells.append(text)
        rows.append([workload, policy, str(len(runs)), *cells])
    return markdown_table(["workload", "policy", "runs", *_FIGURES], rows)


def forecast_table(results: Sequence[SessionResult], profile: StepTimeProfile, folder: Path) -> list[str]:
    """Return one row per run: measured figures, and how far the simulator's are from them."""
    rows = []
    for result in results:
        simulated = simulate_window(result.run, profile, folder)
        cells = []
        for heading, value in simulated.items():
            measured = result.read(heading)
            gap = f"{100 * (value / measured - 1):+.1f} %" if measured else "-"
            cells.append(f"{value:.3g}, {gap}")
        rows.append([result.run.name, *cells])
    return markdown_table(["run", *(f"simulated {heading}" for heading in simulated)], rows)


def simulate_window(run: SessionRun, profile: StepTimeProfile, folder: Path) -> dict[str, float]:
    """Simulate a run and return its window's turns per second, completed sessions and mean turn latency."""
    config = EngineConfig(
        num_gpu_blocks=run.blocks or DEFAULT_BLOCKS,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        max_model_len=32_768,
        enable_prefix_caching=True,
        async_scheduling=True,
    )
    sessions = fit_sessions(sessions_for_run(run, folder)[: run.sessions], config.model_len, run.name)
    arrivals = SessionArrivals.at_concurrency(run.concurrent, stagger_s=run.stagger_s)
    result = simulate_sessions(
        sessions,
        arrivals,
        resolve(run.policy),
        config,
        profile,
        tells_sessions=run.told,
        duration_s=run.duration_s,
    )
    turns: list[RequestRecord] = [r for r in result.completed if (r.finish_s or 0.0) >= run.warm_up_s]
    latencies = [record.e2e_s for record in turns if record.e2e_s is not None]
    return {
        "turns/s": len(turns) / run.window_s,
        "sessions completed": float(sum(record.ends_session for record in turns)),
        "mean turn": fmean(latencies) if latencies else 0.0,
    }


def _policy_label(run: SessionRun) -> str:
    return run.policy if run.told else f"{run.policy}, untold"


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="the result files")],
    profile: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="simulate every run with this step-time profile")
    ] = None,
    sessions_from: Annotated[
        Path, typer.Option(metavar="DIR", help="folder of the session files that runs name")
    ] = Path(),
) -> int:
    """Compare policies on sessions on a real engine, pair by pair, and with the simulator."""
    try:
        results = read_results(directory)
        print("\n".join(pairs_table(results)))
        if profile is not None:
            print("\n" + "\n".join(forecast_table(results, load_profile(profile), sessions_from)))
    except (OSError, ValueError, TraceError) as error:
        return print_error(error)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
