"""`bidkv calibrate`: how long an engine's step takes, from a step log or from data sheets."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import require_report_extra

if TYPE_CHECKING:
    from bidkv.calibration import Calibration, RegimeError, StepLog
    from bidkv.calibration.page import Judged
    from bidkv.profiles import StepTimeProfile


class Engine(StrEnum):
    """Engines of `--engine`."""

    VLLM = "vllm"


def command(
    steps: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Step log (CSV) to fit a profile to.")
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="Record the step log of --steps on this engine first, or go on with it."),
    ] = None,
    time_limit_s: Annotated[float, typer.Option(metavar="S", help="Longest recording by --engine.")] = 540.0,
    analytic: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compute a profile instead: a config.json, or llama-3.1-8b."),
    ] = None,
    gpu: Annotated[str, typer.Option(metavar="NAME", help="GPU of --analytic.")] = "h100-sxm",
    profile: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Only --check this profile, fit nothing.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new profile; default: that of the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the new profile (JSON).")] = None,
    notes: Annotated[str, typer.Option(help="Where the steps come from; goes into the profile.")] = "",
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Step-time model to fit.")] = None,
    graph_max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Largest CUDA graph captured; default: as recorded, or 512."),
    ] = None,
    prefill_graphs: Annotated[
        bool | None,
        typer.Option(help="Whether steps with prefill ran in graphs; default: as recorded, or yes."),
    ] = None,
    compare: Annotated[bool, typer.Option(help="Cross-validate every step-time model.")] = True,
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Step log of a run that is not fitted: how far off?")
    ] = None,
    check_max_num_seqs: Annotated[
        int, typer.Option(metavar="N", help="Sequence limit of that run's engine.")
    ] = 256,
    check_max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="N", help="Token budget of that run's engine.")
    ] = 2048,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the report as JSON; - is stdout.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page with plots.")
    ] = None,
) -> None:
    """Fit a step-time profile to an engine's step log, and say how good it is.

    \b
    Examples:
      bidkv calibrate --steps steps.csv --name my-gpu --out my-gpu.json
      bidkv calibrate --engine vllm --steps steps.csv --out my-gpu.json
      bidkv calibrate --profile h100-llama3.1-8b --check run.steps.csv --check-max-num-seqs 32
      bidkv calibrate --analytic llama-3.1-8b --gpu h200 --out h200.json
    """
    if sum(source is not None for source in (steps, analytic, profile)) != 1:
        fail("expected exactly one of --steps, --analytic and --profile")
    if engine is not None:
        if steps is None:
            fail("--engine: expected --steps, the step log to record")
        _record(steps, time_limit_s)
    if name is not None and not name.isprintable():
        fail(f"--name: expected printable text, found {name!r}")
    if html_file is not None:
        if steps is None and check is None:
            fail("--html: expected --steps or --check, there is nothing to plot")
        require_report_extra()

    lines: list[str] = []
    document: dict[str, Any] = {}
    judged: dict[str, Judged] = {}
    from bidkv.calibration import as_text, errors_as_text

    if steps is not None:
        with bad_input("--steps"):
            log, result = _fit(
                steps, name or steps.stem, model, graph_max_tokens, prefill_graphs, notes, compare
            )
        step_times, written = result.profile, result.profile_json()
        lines.append(as_text(result, log))
        document = result.document()
        judged["fitted"] = (step_times, log)
    else:
        step_times, written = _without_steps(analytic, gpu, profile, name)
        lines.append(f"{step_times.name} ({step_times.kind}): {step_times.notes}")
    if check is not None:
        timed = step_times.for_engine(check_max_num_seqs, check_max_num_batched_tokens)
        held_out, errors = _checked(timed, check)
        lines += ["", *errors_as_text(f"Error on {check}, not fitted", errors)]
        judged["not fitted"] = (timed, held_out)
        document["check"] = [asdict(error) for error in errors]
    if out is not None:
        with bad_input("--out"):
            out.write_text(written, encoding="utf-8")
    if html_file is not None:
        from bidkv.calibration.page import write_page

        with bad_input("--html"):
            write_page(html_file, "\n".join(lines), step_times, judged)
    _show("\n".join(lines), document, json_file)


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
    graph_max_tokens: int | None,
    prefill_graphs: bool | None,
    notes: str,
    compare: bool,
) -> tuple[StepLog, Calibration]:
    from bidkv.calibration import CHOSEN, calibrate, read_step_log, recorded_graphs

    graphs = recorded_graphs(steps, graph_max_tokens, prefill_graphs)
    log = read_step_log(steps)
    return log, calibrate(log, name, graphs=graphs, model=model or CHOSEN, notes=notes, compare=compare)


def _without_steps(
    analytic: str | None, gpu: str, profile: str | None, name: str | None
) -> tuple[StepTimeProfile, str]:
    from bidkv.profiles import dump_profile, load_profile
    from bidkv.profiles.analytic import analytic_profile

    if analytic is not None:
        with bad_input("--analytic"):
            step_times = analytic_profile(analytic, gpu, name)
    else:
        assert profile is not None
        with bad_input("--profile"):
            step_times = load_profile(profile)
    return step_times, dump_profile(step_times)


def _checked(step_times: StepTimeProfile, check: Path) -> tuple[StepLog, list[RegimeError]]:
    from bidkv.calibration import check as measure
    from bidkv.calibration import read_step_log

    with bad_input("--check"):
        log = read_step_log(check)
    return log, measure(step_times, log)


def _show(text: str, document: dict[str, Any], json_file: str | None) -> None:
    if json_file == "-":
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(text)
    if json_file:
        with bad_input("--json"):
            Path(json_file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
