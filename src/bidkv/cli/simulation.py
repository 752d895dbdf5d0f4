"""The runs behind `bidkv simulate`: every strategy on the same workload, with progress and a decision log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.options import split_names
from bidkv.cli.outputs import progress_bar, table_console, write_json
from bidkv.cli.workload import Workload

if TYPE_CHECKING:
    from bidkv.evaluation.figures import Figure
    from bidkv.profiles import StepTimeProfile
    from bidkv.protocol.observer import Observer
    from bidkv.protocol.policy import Policy
    from bidkv.results import RecordTally, RunResult
    from bidkv.simulator import EngineConfig, SglangConfig
    from bidkv.simulator.fleet import FleetResult


_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Simulation:
    """What every strategy of a comparison has in common.

    Attributes:
        workload: requests or sessions.
        engine: of one replica.
        profile: its step times.
        seed: of strategies that draw at random.
        duration_s: cut every run at this time; None runs to the end.
    """

    workload: Workload
    engine: EngineConfig | SglangConfig
    profile: StepTimeProfile
    seed: int
    duration_s: float | None = None

    def run_all(self, strategies: Sequence[str], log: Path | None) -> list[RunResult]:
        """Run every strategy on one replica; `log` takes every decision of the only one."""
        with _decision_log(log) as observer:

            def run(policy: Policy, advance: Callable[[int], None]) -> RunResult:
                return self._run_one(policy, observer, advance)

            results = self._each(strategies, run)
        # A result is called by the name under which its strategy was asked for, options included.
        return [replace(result, strategy=name) for name, result in zip(strategies, results, strict=True)]

    def run_fleets(self, strategies: Sequence[str], replicas: int, router: str) -> list[FleetResult]:
        """Run every strategy on equal replicas behind a router; a streamed run has the whole alone."""
        from bidkv.results import RecordTally
        from bidkv.simulator.fleet import FleetResult, simulate_fleet

        is_streamed = not isinstance(self.workload.requests, Sequence)

        def run(policy: Policy, advance: Callable[[int], None]) -> FleetResult:
            tally = RecordTally()
            with _broken_rows_end_the_run():
                fleet = simulate_fleet(
                    self.workload.requests,
                    policy,
                    self.engine,
                    self.profile,
                    replicas=replicas,
                    router=router,
                    progress=lambda sent, _: advance(sent),
                    on_record=tally.add if is_streamed else None,
                )
            if not is_streamed:
                return fleet
            return FleetResult(fleet.router, _with_tally(fleet.merged, tally), ())

        fleets = self._each(strategies, run)
        return [fleet.with_strategy(name) for name, fleet in zip(strategies, fleets, strict=True)]

    def _run_one(
        self, policy: Policy, observer: Observer | None, advance: Callable[[int], None]
    ) -> RunResult:
        from bidkv.simulator import simulate, simulate_sessions

        workload = self.workload
        options: dict[str, Any] = {
            "observer": observer,
            "progress": lambda done, _: advance(done),
            "duration_s": self.duration_s,
        }
        if not isinstance(workload.requests, Sequence):
            return self._run_streamed(policy, options)
        if workload.arrivals is None:
            return simulate(workload.requests, policy, self.engine, self.profile, **options)
        return simulate_sessions(
            workload.sessions, workload.arrivals, policy, self.engine, self.profile, **options
        )

    def _run_streamed(self, policy: Policy, options: dict[str, Any]) -> RunResult:
        from bidkv.results import RecordTally
        from bidkv.simulator import simulate

        tally = RecordTally()
        with _broken_rows_end_the_run():
            result = simulate(
                self.workload.requests, policy, self.engine, self.profile, on_record=tally.add, **options
            )
        return _with_tally(result, tally)

    def _each(
        self, strategies: Sequence[str], run: Callable[[Policy, Callable[[int], None]], _Result]
    ) -> list[_Result]:
        from bidkv.evaluation.seeds import add_seed
        from bidkv.policy import resolve

        results = []
        with progress_bar(len(strategies) * self.workload.size or None) as bar:
            for index, name in enumerate(strategies):
                before = index * self.workload.size

                def advance(done: int, name: str = name, before: int = before) -> None:
                    bar(name, before + done)

                advance(0)
                results.append(run(resolve(add_seed(name, self.seed)), advance))
        return results


def _with_tally(result: RunResult, tally: RecordTally) -> RunResult:
    from bidkv.results import RunResult, StreamedResult

    return StreamedResult(
        **{field.name: getattr(result, field.name) for field in fields(RunResult)}, tally=tally
    )


@contextmanager
def _broken_rows_end_the_run() -> Iterator[None]:
    """End the command with one line when a row that is read during the run is broken."""
    from bidkv.workloads.traces import TraceError

    try:
        yield
    except TraceError as error:
        fail(f"--trace: {error}")


def check_strategies(text: str) -> list[str]:
    """Split `--strategy` and check every name in it."""
    from bidkv.policy import resolve

    names = split_names("--strategy", text)
    for name in names:
        with bad_input("--strategy"):
            resolve(name)
        if names.count(name) > 1:
            fail(f"--strategy: {name!r} is named twice")
    return names


def read_figures(text: str | None) -> tuple[Figure, ...] | None:
    """Return the figures of `--figures`; None where it is not given."""
    from bidkv.evaluation.figures import choose_figures

    with bad_input("--figures"):
        return None if text is None else choose_figures(text)


def show_results(
    results: Sequence[RunResult],
    config: dict[str, Any],
    json_file: str | None,
    html_file: Path | None,
    fleets: Sequence[FleetResult] = (),
    figures: Sequence[Figure] | None = None,
) -> None:
    """Write the JSON, the tables and the page, as asked; `results` are the wholes of `fleets`.

    `figures` are the columns of one table, None those that are usual.
    """
    summaries = [result.summary() for result in results]
    for summary, fleet in zip(summaries, fleets, strict=False):
        if fleet.replicas:
            summary["replicas"] = [result.summary() for result in fleet.replicas]
    if html_file is not None:  # before anything is printed, which a closed pipe would end
        from bidkv.report.page import write_report

        write_report(html_file, results, config)
    is_stdout_taken = write_json({"config": config, "runs": summaries}, json_file)
    if not is_stdout_taken:
        _print_tables(results, summaries, config, figures)
    if html_file is not None:
        typer.echo(f"report: {html_file}", err=is_stdout_taken)


def _print_tables(
    results: Sequence[RunResult],
    summaries: Sequence[dict[str, Any]],
    config: dict[str, Any],
    figures: Sequence[Figure] | None,
) -> None:
    from bidkv.evaluation.figures import SESSION_TABLE, measured_figures
    from bidkv.evaluation.tables import summary_tables
    from bidkv.report import find_growths, judge

    console = table_console()
    console.print(_title(config), markup=False)
    console.print(*summary_tables(summaries, console.width, figures=figures))
    if config["enable_prefix_caching"] and config["sessions"] is None:
        console.print("lost prefixes: not counted for single requests, only for turns of sessions")
    if figures is None and (columns := measured_figures(summaries, SESSION_TABLE)):
        console.print("\nsessions")
        console.print(*summary_tables(summaries, console.width, figures=columns))
    growths = find_growths(results, config)
    console.print(f"\n{judge(summaries, growths)}", markup=False)
    for summary in summaries:
        if "replicas" in summary:
            rows = [
                part | {"strategy": f"{index}: {part['requests']:,} requests"}
                for index, part in enumerate(summary["replicas"])
            ]
            console.print()
            title = f"{summary['strategy']}, replica by replica"
            console.print(*summary_tables(rows, console.width, title))


def _title(config: dict[str, Any]) -> str:
    if config["sessions"] is None:
        title = f"{config['trace']}: {config['requests']:,} requests"
    else:
        title = f"{config['trace']}: {config['sessions']:,} sessions, {config['requests']:,} turns"
    title += f", {config['num_gpu_blocks']:,} KV blocks"
    if config["replicas"] > 1:
        title += f" on each of {config['replicas']} replicas ({config['router']})"
    title += f", {config['max_num_seqs']:,} sequences, {config['max_num_batched_tokens']:,} tokens a step"
    switches = [
        words
        for words, key in (
            ("prefix caching", "enable_prefix_caching"),
            ("asynchronous scheduling", "async_scheduling"),
        )
        if config[key]
    ]
    return ", ".join([title, *switches, config["profile"]])


@contextmanager
def _decision_log(path: Path | None) -> Iterator[Observer | None]:
    """Yield a log that holds this run alone and whole: nothing is rotated away."""
    if path is None:
        yield None
        return
    from bidkv.observability.decision_log import DecisionLog
    from bidkv.observability.rotating import RotatingFile, discard_series

    with bad_input("--decision-log"):
        discard_series(path)
        log = DecisionLog(path, file=RotatingFile(path, max_bytes=sys.maxsize))
    yield log
    log.close()
