"""`bidkv calibrate`: how long an engine's step takes, from a step log or from data sheets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli.engine_options import read_profile
from bidkv.cli.errors import bad_input, fail
from bidkv.cli.machine_options import MachineOptions
from bidkv.cli.option_groups import expand_groups
from bidkv.cli.options import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    DEFAULT_MAX_NUM_SEQS,
    HtmlFile,
    JsonFile,
)
from bidkv.cli.outputs import require_all_writable, require_extra, write_json
from bidkv.results.files import write_output

if TYPE_CHECKING:
    from bidkv.calibration.page import Judged
    from bidkv.profiles import StepTimeProfile
    from bidkv.profiles.analytic import ServerMemory


_NO_MACHINE = MachineOptions()


class RecordedEngine(StrEnum):
    """Values of `--engine`."""

    VLLM = "vllm"


@expand_groups
def command(
    steps: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Step log (CSV) to fit a profile to.")
    ] = None,
    engine: Annotated[
        RecordedEngine | None,
        typer.Option(help="Record the step log of --steps on this engine first, or continue it."),
    ] = None,
    time_limit_s: Annotated[float, typer.Option(metavar="S", help="Most seconds to record.")] = 540.0,
    analytic: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compute a profile from a config.json, or for llama-3.1-8b."),
    ] = None,
    machine: MachineOptions = _NO_MACHINE,
    max_num_seqs: Annotated[
        int, typer.Option(metavar="N", help="Sequence limit of the server of --analytic.")
    ] = DEFAULT_MAX_NUM_SEQS,
    max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="N", help="Token budget of the server of --analytic.")
    ] = DEFAULT_MAX_NUM_BATCHED_TOKENS,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Only --check this profile; nothing is fitted.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new profile.  [default: that of the file]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the new profile (JSON).")] = None,
    notes: Annotated[str, typer.Option(help="Where the steps come from; kept in the profile.")] = "",
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Step-time model to fit.")] = None,
    graph_max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Largest CUDA graph captured.  [default: as recorded, or 512]"),
    ] = None,
    prefill_graphs: Annotated[
        bool | None,
        typer.Option(help="Whether steps with prefill ran in graphs.  [default: as recorded, or yes]"),
    ] = None,
    compare: Annotated[bool, typer.Option(help="Cross-validate every step-time model.")] = True,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="State the error on another run's step log."),
    ] = None,
    check_max_num_seqs: Annotated[
        int, typer.Option(metavar="N", help="Sequence limit of that run's engine.")
    ] = DEFAULT_MAX_NUM_SEQS,
    check_max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="N", help="Token budget of that run's engine.")
    ] = DEFAULT_MAX_NUM_BATCHED_TOKENS,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Fit a step-time profile to an engine's step log, and say how good it is.

    \b
    Examples:
      bidkv calibrate --steps steps.csv --name my-gpu --out my-gpu.json
      bidkv calibrate --engine vllm --steps steps.csv --out my-gpu.json
      bidkv calibrate --profile h100-llama3.1-8b --check run.steps.csv --check-max-num-seqs 32
      bidkv calibrate --analytic llama-3.1-8b --gpu h200 --out h200.json
      bidkv calibrate --analytic config.json --gpu a100 --tensor-parallel 4 --kv-cache-dtype fp8
    """
    if sum(source is not None for source in (steps, analytic, profile)) != 1:
        fail("expected exactly one of --steps, --analytic and --profile")
    if name is not None and not name.isprintable():
        fail(f"--name: expected printable text, found {name!r}")
    if html_file is not None:
        if steps is None and check is None:
            fail("--html: expected --steps or --check, there is nothing to plot")
        require_extra("report", "--html")
    require_all_writable((("--out", out), ("--html", html_file), ("--json", json_file)))
    if engine is not None:
        if steps is None:
            fail("--engine: expected --steps, the step log to record")
        _record(steps, time_limit_s)
    if steps is not None:
        graphs = (graph_max_tokens, prefill_graphs)
        made = _fit(steps, name or steps.stem, model, graphs, notes, compare)
    else:
        server = machine.server(max_num_seqs, max_num_batched_tokens)
        made = _without_steps(analytic, (machine, server), profile, name)
    if check is not None:
        _check(made, check, check_max_num_seqs, check_max_num_batched_tokens)
    _write(made, out, html_file, json_file)


def _write(made: _Made, out: Path | None, html_file: Path | None, json_file: str | None) -> None:
    if out is not None:
        write_output(out, made.written)
    text = "\n".join(made.lines)
    if html_file is not None:
        from bidkv.calibration.page import write_page

        write_page(html_file, text, made.profile, made.judged)
    if not write_json(made.document, json_file):
        typer.echo(text)


@dataclass(slots=True)
class _Made:
    """A profile and what is said about it: as text, as JSON, and beside step logs on a page."""

    profile: StepTimeProfile
    written: str
    lines: list[str]
    document: dict[str, Any] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)


def _record(steps: Path, time_limit_s: float) -> None:
    from bidkv.gpu_host.calibration_run import main

    with bad_input("--engine"):
        status = main(["--out", str(steps), "--time-limit-s", str(time_limit_s)])
    if status:
        raise typer.Exit(status)


def _fit(
    steps: Path,
    name: str,
    model: str | None,
    graphs: tuple[int | None, bool | None],
    notes: str,
    compare: bool,
) -> _Made:
    require_extra("sim", "calibrate --steps")
    from bidkv.calibration import CHOSEN, as_text, calibrate, read_graphs, read_step_log

    with bad_input("--steps"):
        recorded = read_graphs(steps, *graphs)
        log = read_step_log(steps)
        result = calibrate(log, name, graphs=recorded, model=model or CHOSEN, notes=notes, compare=compare)
    return _Made(
        result.profile,
        result.profile_json(),
        [as_text(result, log)],
        result.document(),
        {"fitted": (result.profile, log)},
    )


def _without_steps(
    analytic: str | None,
    replica: tuple[MachineOptions, ServerMemory],
    profile: str | None,
    name: str | None,
) -> _Made:
    from bidkv.profiles import dump_profile

    machine, server = replica
    if analytic is not None:
        step_times = machine.make_profile("--analytic", analytic, name, server)
    else:
        assert profile is not None
        step_times = read_profile(profile)
    about = f"{step_times.name} ({step_times.kind}): {step_times.notes}"
    if step_times.num_gpu_blocks is not None:
        about += f"; {step_times.num_gpu_blocks:,} KV blocks of 16 tokens fit beside the weights"
    return _Made(step_times, dump_profile(step_times), [about])


def _check(made: _Made, check: Path, max_num_seqs: int, max_num_batched_tokens: int) -> None:
    """Add the error of the profile on a step log that is not fitted."""
    require_extra("sim", "--check")
    from bidkv.calibration import check as measure_errors
    from bidkv.calibration import errors_as_text, read_step_log

    with bad_input("--check"):
        log = read_step_log(check)
    timed = made.profile.for_engine(max_num_seqs, max_num_batched_tokens)
    errors = measure_errors(timed, log)
    made.lines += ["", *errors_as_text(f"Error on {check}, not fitted", errors)]
    made.judged["not fitted"] = (timed, log)
    made.document["check"] = [asdict(error) for error in errors]
