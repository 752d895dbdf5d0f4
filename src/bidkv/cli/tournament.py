"""`bidkv tournament`: policies compared over many workloads, loads and memory sizes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.option_groups import expand_groups
from bidkv.cli.options import JsonFile, SplitName, split_names
from bidkv.cli.outputs import progress_bar, require_all_writable, require_extra, write_json
from bidkv.cli.workload import FileStatements, print_report
from bidkv.command_line.config_file import with_config
from bidkv.command_line.errors import INTERRUPTED
from bidkv.command_line.server_options import (
    BlockSize,
    MaxModelLen,
    MaxNumBatchedTokens,
    MaxNumSeqs,
    NumGpuBlocks,
    SchedulerOptions,
)

if TYPE_CHECKING:
    from bidkv.tournament import Standings, TournamentPlan
    from bidkv.tournament.files import TraceFile
    from bidkv.tournament.session_standings import SessionStandings

_LOADS = "0.8,0.95,1.1,1.3"

_ALL_CORES = -1
"""The value of `--jobs` that takes every core."""


@dataclass(frozen=True)
class SessionTournament:
    """The options of a tournament of sessions."""

    sessions: Annotated[
        bool,
        typer.Option("--sessions", help="Sessions, in open and closed loop, instead of single requests."),
    ] = False
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="A[,B...]",
            help="Models on machines; without --sessions one.  [default: all; without --sessions an 8B model "
            "on an H100, synchronous]",
        ),
    ] = None
    level: Annotated[
        str,
        typer.Option(
            metavar="X[,Y...]",
            help="--sessions: concurrent sessions, as multiples of the number that memory holds; none leaves "
            "out the closed loop.",
        ),
    ] = "1,2,4"
    open_s: Annotated[
        float, typer.Option(metavar="S", help="--sessions: seconds in which sessions start in open loop.")
    ] = 1200.0
    closed_s: Annotated[
        float,
        typer.Option(metavar="S", help="--sessions: seconds of a run in closed loop that are measured."),
    ] = 1200.0
    warm_up_s: Annotated[
        float, typer.Option(metavar="S", help="--sessions: seconds of a run in closed loop before them.")
    ] = 600.0
    knees: Annotated[
        bool, typer.Option("--knees", help="--sessions: find the session rate every policy sustains.")
    ] = False
    section: Annotated[
        str, typer.Option(metavar="NAME", help="--sessions: the section of --docs to regenerate.")
    ] = "sessions"


_SINGLE_REQUESTS = SessionTournament()


@dataclass(frozen=True, kw_only=True)
class ServerOptions(SchedulerOptions):
    """Options of the simulated engine at every memory size; None leaves one to the size, or the engine."""

    num_gpu_blocks: NumGpuBlocks = None
    block_size: BlockSize = None
    max_num_seqs: MaxNumSeqs = None
    max_num_batched_tokens: MaxNumBatchedTokens = None
    max_model_len: MaxModelLen = None

    def as_engine(self) -> dict[str, Any]:
        """Return the stated options as a simulated engine takes them."""
        names = ("num_gpu_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
        stated = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return stated | self.simulated_switches()


_OWN_SERVERS = ServerOptions()
_NOTHING_STATED = FileStatements()


@with_config
@expand_groups
def command(
    strategy: Annotated[
        str | None,
        typer.Option(metavar="A[,B...]", help="Policies: name or name:key=value;key=value.  [default: all]"),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="A[,B...]",
            help="Workload families, or a group: ordinary, outside-chat.  [default: all; with --trace none]",
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[,FILE...]",
            help="Trace files of single requests that take part like families: tuning seeds draw from the "
            "first half of their rows, held-out seeds from the second.",
        ),
    ] = None,
    stated: FileStatements = _NOTHING_STATED,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="A[,B...]",
            help="Memory sizes: T, 1500, 4096, M, server, or BLOCKS/SEQUENCES such as 27000/256; with "
            "--sessions quarter, half, full.  [default: M and server; with --sessions all]",
        ),
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(
            metavar="X[,Y...]",
            help="Arrival rates as shares of the throughput at saturation; inf has all requests queued at "
            f"the start.  [default: {_LOADS}; with --sessions shares of the knee, 0.5,0.8,1,1.2,1.5 or none: "
            "no open loop]",
        ),
    ] = None,
    split: Annotated[
        SplitName, typer.Option(help="Seeds (and rows of real traces) for tuning, or those kept for judging.")
    ] = SplitName.TUNING,
    seeds: Annotated[int, typer.Option(metavar="N", help="Take the first N seeds of the split.")] = 4,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests of each run.  [default: 1,000 at T up to 4,000 at M]"),
    ] = None,
    of_sessions: SessionTournament = _SINGLE_REQUESTS,
    server: ServerOptions = _OWN_SERVERS,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes; -1 takes all cores.")] = -1,
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep every score here; stored scores are not run again."),
    ] = None,
    json_file: JsonFile = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the Pareto picture as a page.")
    ] = None,
    png_file: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write the Pareto picture as an image.")
    ] = None,
    docs_file: Annotated[
        Path | None,
        typer.Option("--docs", metavar="FILE", help="Regenerate the tables between this file's markers."),
    ] = None,
) -> None:
    """Compare policies over workloads, loads and memory sizes, in the simulator, on all cores.

    All policies run identical requests. Figures are ratios to vLLM's own order (preempt-evict) on the same
    requests: geometric means with 95 % intervals over seeds. Saturation is the throughput of that order when
    every request is there from the start. Each memory size has its own sequence limit: T has 600 blocks and
    32 sequences, M 8,192 blocks and 256 sequences, server the blocks of an H100 beside an 8B model and 256
    sequences. Engine options hold at every size. With --sessions the policies run sessions in open and in
    closed loop, with prefix caching and asynchronous scheduling on; the knee is the session rate at which
    the queue of vLLM's own order stops being stable.

    \b
    Examples:
      bidkv tournament --strategy fair,lcf --size T,M --family mixed,sharegpt
      bidkv tournament --split held_out --seeds 12 --output-dir out/tournament --json out/tournament.json
      bidkv tournament --trace my.csv --strategy fair,lcf --columns time=start,prompt=in,output=out
      bidkv tournament --sessions --strategy fair --family agents-20-turns --size half --output-dir out/s
    """
    require_extra("experiments", "tournament")
    section = of_sessions.section if of_sessions.sessions else "standings"
    if jobs < 1 and jobs != _ALL_CORES:
        fail(f"--jobs: expected at least 1, or -1 for all cores, got {jobs}")
    if output_dir is not None and output_dir.exists() and not output_dir.is_dir():
        fail(f"--output-dir: expected a folder, found the file {output_dir}")
    _check_outputs(json_file, html_file, png_file, docs_file, section)
    if of_sessions.sessions and trace is not None:
        fail("--trace: a tournament of sessions generates them: bidkv simulate --trace runs those of a file")
    files = _read_files(trace, stated)
    choice = _Choice(strategy, family, size, load, first_seeds(split, seeds), requests, server, files)
    standings: Standings | SessionStandings
    try:
        if of_sessions.sessions:
            standings = _play_sessions(choice, of_sessions, jobs, output_dir)
        else:
            standings = _play(choice, _one_machine(of_sessions.machine), jobs, output_dir)
    except KeyboardInterrupt:
        kept = "--output-dir would keep what is finished"
        if output_dir is not None:
            kept = f"the same command goes on from what is finished in {output_dir}"
        typer.echo(f"bidkv: interrupted; {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _write(standings, json_file, (html_file, png_file), docs_file, section)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What both kinds of tournaments choose from; None takes all."""

    strategy: str | None
    family: str | None
    size: str | None
    load: str | None
    seeds: Sequence[int]
    requests: int | None
    server: ServerOptions
    files: Sequence[TraceFile]


def _read_files(trace: str | None, stated: FileStatements) -> Sequence[TraceFile]:
    """Return the files of `--trace`, read once, so that what is wrong with them is said before any run."""
    from bidkv.tournament.files import TraceFile

    statements = stated.statements()
    if trace is None:
        if statements:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in statements)
            fail(f"{names}: expected together with --trace, whose files need it")
        return ()
    files = [TraceFile(path, statements) for path in split_names("--trace", trace)]
    stated.make_options()
    for file in files:
        with bad_input("--trace"):
            print_report(file.report)
    return files


def _check_files(plan: TournamentPlan) -> None:
    """Say what of the files fits into no memory of a size, and end the command where too little does."""
    from bidkv.tournament.plan import memory_size

    for file in plan.files:
        for size in plan.sizes:
            engine = memory_size(size).make_engine(plan.engine)
            with bad_input("--trace"):
                for seed in plan.seeds:
                    file.make(engine, plan.requests_at(size), 1.0, seed)
                unfit = file.fitting(engine, plan.seeds[0])[1]
            if unfit.left_out:
                typer.echo(f"bidkv: {file.name} at {size}: {unfit}", err=True)


def _one_machine(text: str | None) -> str | None:
    """Return the name of the machine that single requests run on; None for the default."""
    if text is None:
        return None
    from bidkv.tournament.session_plan import MACHINES

    if text not in MACHINES:
        fail(f"--machine: expected one of {', '.join(MACHINES)}, got {text!r}")
    return text


def _play(choice: _Choice, machine: str | None, jobs: int, output_dir: Path | None) -> Standings:
    from bidkv.tournament import TournamentPlan, all_policies, play
    from bidkv.tournament.plan import DEFAULT_SIZES, PROFILE

    with bad_input("options"):
        plan = TournamentPlan.make(
            all_policies() if choice.strategy is None else split_names("--strategy", choice.strategy),
            families=_names_or_all("--family", choice.family),
            sizes=DEFAULT_SIZES if choice.size is None else split_names("--size", choice.size),
            loads=split_numbers("--load", choice.load or _LOADS),
            seeds=choice.seeds,
            requests=choice.requests,
            engine=choice.server.as_engine(),
            files=choice.files,
        )
    _check_files(plan)
    with progress_bar(None, "workloads") as bar:
        return play(
            plan,
            jobs=jobs,
            output_dir=output_dir,
            profile=machine or PROFILE,
            on_progress=lambda done, total: bar("workloads", done, total),
        )


def _play_sessions(
    choice: _Choice, given: SessionTournament, jobs: int, output_dir: Path | None
) -> SessionStandings:
    from bidkv.tournament.session_plan import OPEN_LOADS, SessionPlan
    from bidkv.tournament.sessions import play_sessions

    if stated := choice.server.as_engine():
        names = ", ".join(sorted(stated))
        fail(f"--sessions: its machines have engines of their own, without {names}")
    if choice.requests is not None:
        fail("--requests: a tournament of sessions is as long as --open-s and --closed-s say")
    with bad_input("options"):
        plan = SessionPlan.make(
            _names_or_all("--strategy", choice.strategy),
            machines=_names_or_all("--machine", given.machine),
            sizes=_names_or_all("--size", choice.size),
            families=_names_or_all("--family", choice.family),
            loads=OPEN_LOADS if choice.load is None else _numbers_or_none("--load", choice.load),
            levels=_numbers_or_none("--level", given.level),
            seeds=choice.seeds,
            open_s=given.open_s,
            closed_s=given.closed_s,
            warm_up_s=given.warm_up_s,
            finds_knees=given.knees,
        )
    with progress_bar(None, "sessions") as bar:
        return play_sessions(
            plan,
            jobs=jobs,
            output_dir=output_dir,
            on_progress=lambda done, total: bar("sessions", done, total),
        )


def _names_or_all(option: str, text: str | None) -> list[str] | None:
    return None if text is None else split_names(option, text)


def _check_outputs(
    json_file: str | None,
    html_file: Path | None,
    png_file: Path | None,
    docs_file: Path | None,
    section: str,
) -> None:
    from bidkv.tournament.docs import require_markers

    for option, file in (("--html", html_file), ("--png", png_file)):
        if file is not None:
            require_extra("report", option)
            if file.suffix != f".{option[2:]}":
                fail(f"{option}: expected a name that ends in .{option[2:]}, got {file}")
    require_all_writable((("--json", json_file), ("--html", html_file), ("--png", png_file)))
    with bad_input("--docs"):
        if docs_file is not None:
            require_markers(docs_file, section)


def _write(
    standings: Standings | SessionStandings,
    json_file: str | None,
    pictures: Sequence[Path | None],
    docs_file: Path | None,
    section: str,
) -> None:
    from bidkv.tournament import Standings
    from bidkv.tournament.docs import regenerate, regenerate_section

    made_by = shlex.join(["bidkv", *sys.argv[1:]])
    for file in filter(None, pictures):
        if isinstance(standings, Standings):
            from bidkv.tournament.picture import write_picture

            write_picture(file, standings)
        else:
            from bidkv.tournament.session_picture import write_session_picture

            write_session_picture(file, standings)
    if docs_file is not None:
        if isinstance(standings, Standings):
            regenerate(docs_file, standings, made_by)
        else:
            regenerate_section(docs_file, section, standings.markdown(made_by))
    # Last, since a closed pipe ends the command here.
    if not write_json(standings.as_dict(), json_file):
        typer.echo(standings.text())


def _numbers_or_none(option: str, text: str) -> list[float]:
    return [] if text == "none" else split_numbers(option, text)


def split_numbers(option: str, text: str) -> list[float]:
    """Return the numbers of a comma-separated list; the option is named where one is not a number."""
    parts = split_names(option, text)
    try:
        return [float(part) for part in parts]
    except ValueError:
        fail(f"{option}: expected numbers with commas between them, got {text!r}")


def first_seeds(split: SplitName, count: int) -> Sequence[int]:
    """Return the first seeds of a split; the number is refused where families.json fixes fewer."""
    from bidkv.workloads.families import split_seeds

    known = split_seeds(split.value)
    if not 1 <= count <= len(known):
        fail(f"--seeds: expected 1 to {len(known)} (families.json fixes them for {split.value}), got {count}")
    return known[:count]
