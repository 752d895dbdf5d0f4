"""`bidkv plan`: whether a load can be sustained, how many replicas it takes, and what limits them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli import options as opt
from bidkv.cli.engine_options import EngineOptions, read_profile
from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import require_all_writable, require_extra, write_json
from bidkv.cli.workload import WorkloadOptions, read_requests
from bidkv.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from bidkv.evaluation.latency_target import LatencyTarget
    from bidkv.planning import Demand

_GENERATED_REQUESTS = 4000
"""Requests of a generated workload where no `--limit` states their number: enough for its law of lengths."""

_PICTURES = (".html", ".svg", ".png")


def command(
    trace: opt.Trace = "azure-conv",
    trace_format: opt.TraceFormatOption = "auto",
    prompt_tokens: Annotated[
        str | None,
        typer.Option(metavar="N|LOW:HIGH", help="Prompt length, or uniform lengths, instead of a trace."),
    ] = None,
    output_tokens: Annotated[
        str | None,
        typer.Option(metavar="N|LOW:HIGH", help="Output length, or uniform lengths, instead of a trace."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="RPS", help="Arrivals per second.  [default: the trace's own]")
    ] = None,
    limit: opt.Limit = None,
    profile: opt.Profile = DEFAULT_PROFILE,
    num_gpu_blocks: opt.NumGpuBlocks = None,
    block_size: opt.BlockSize = opt.DEFAULT_BLOCK_SIZE,
    max_num_seqs: opt.MaxNumSeqs = opt.DEFAULT_MAX_NUM_SEQS,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = opt.DEFAULT_MAX_NUM_BATCHED_TOKENS,
    cached_prompt_share: Annotated[
        float, typer.Option(metavar="F", help="Share of prompt tokens found in the prefix cache.")
    ] = 0.0,
    growth: Annotated[float, typer.Option(metavar="X", help="Plan also for X times the load.")] = 2.0,
    target_utilization: Annotated[
        float, typer.Option(metavar="F", help="Share of the sustainable rate a replica should carry.")
    ] = 0.8,
    slo_ttft_p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Target: 99th percentile of the time to first token.")
    ] = None,
    slo_tpot_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Target: mean time per output token.")
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Test the plan: simulate 0.9, 1.0 and 1.1 of the rate, and fleets."),
    ] = False,
    router: opt.Router = opt.RouterName.ROUND_ROBIN,
    json_file: opt.JsonFile = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a replica from idle to its limit (.html, .svg or .png)."),
    ] = None,
) -> None:
    """Plan capacity: what a replica sustains, how many it takes, what limits them, what more would buy.

    In closed form, from the lengths of a trace (or stated ones) and a step-time profile;
    docs/reference/stability.md has the theory and its errors against simulation. --simulate also runs the
    planned fleets. Exit code 1 when no number of replicas keeps the target.

    \b
    Examples:
      bidkv plan
      bidkv plan --trace my.jsonl --slo-ttft-p99-ms 500 --growth 3 --picture plan.html
      bidkv plan --prompt-tokens 10:1600 --output-tokens 10:1600 --rate 12 --simulate
    """
    _check_outputs(json_file, picture)
    step_times = read_profile(profile)
    engine = EngineOptions(
        opt.EngineName.VLLM, num_gpu_blocks, block_size, max_num_seqs, max_num_batched_tokens
    ).make_vllm(step_times)
    if simulate and cached_prompt_share:
        fail("--simulate: simulated prompts share nothing: leave --cached-prompt-share out")
    target = _target(slo_ttft_p99_ms, slo_tpot_ms)
    source = WorkloadOptions(trace, trace_format, rate, limit)
    demand = _demand(source, prompt_tokens, output_tokens)

    from bidkv.planning import check_rates, make_plan, verify_fleet
    from bidkv.planning.text import plan_text
    from bidkv.stability import ReplicaShape

    with bad_input("options"):
        shape = ReplicaShape(engine.usable_blocks, block_size, max_num_seqs, max_num_batched_tokens)
        plan = make_plan(
            demand,
            shape,
            step_times,
            target=target,
            growth=growth,
            target_utilization=target_utilization,
            cached_prompt_share=cached_prompt_share,
        )
    checks, fleet = [], None
    if simulate:
        _advise_compiling()
        checks = check_rates(demand, plan.service, engine, step_times)
        fleet = verify_fleet(plan, demand, engine, step_times, target=target, router=router.value)
    document = plan.as_dict() | {
        "num_gpu_blocks": engine.num_gpu_blocks,
        "checks": [asdict(check) for check in checks],
        "fleet": None if fleet is None else asdict(fleet),
    }
    is_stdout_taken = write_json(document, json_file)
    if not is_stdout_taken:
        typer.echo(plan_text(plan, checks, fleet))
    if picture is not None:
        from bidkv.planning.picture import load_curve, plan_chart, write_picture

        write_picture(picture, plan_chart(plan, load_curve(demand, shape, step_times, cached_prompt_share)))
        typer.echo(f"picture: {picture}", err=is_stdout_taken)
    if plan.replicas is None:
        raise typer.Exit(NOT_POSSIBLE)


NOT_POSSIBLE = 1
"""Exit code where no number of replicas keeps the target."""


def _check_outputs(json_file: str | None, picture: Path | None) -> None:
    if picture is not None:
        if picture.suffix not in _PICTURES:
            fail(f"--picture: expected a name that ends in .html, .svg or .png, got {str(picture)!r}")
        require_extra("report", "--picture")
    require_all_writable((("--json", json_file), ("--picture", picture)))


def _target(ttft_p99_ms: float | None, tpot_ms: float | None) -> LatencyTarget:
    from bidkv.evaluation.latency_target import LatencyTarget

    for option, bound in (("--slo-ttft-p99-ms", ttft_p99_ms), ("--slo-tpot-ms", tpot_ms)):
        if bound is not None and not bound > 0.0:
            fail(f"{option}: expected milliseconds above 0, got {bound}")
    return LatencyTarget(
        None if ttft_p99_ms is None else ttft_p99_ms / 1e3, None if tpot_ms is None else tpot_ms / 1e3
    )


def _advise_compiling() -> None:
    from importlib.util import find_spec

    if find_spec("numba") is None:
        typer.echo(
            "bidkv: --simulate: numba is not installed, so this takes minutes instead of seconds "
            "(pip install 'bidkv[sim]')",
            err=True,
        )


def _demand(source: WorkloadOptions, prompt_tokens: str | None, output_tokens: str | None) -> Demand:
    from bidkv.planning import Demand

    if (prompt_tokens is None) != (output_tokens is None):
        fail("--prompt-tokens and --output-tokens: state both or neither")
    if prompt_tokens is not None and output_tokens is not None:
        if source.rate_rps is None:
            fail("--rate: stated lengths have no arrivals of their own: state a rate")
        prompt, output = _bounds("--prompt-tokens", prompt_tokens), _bounds("--output-tokens", output_tokens)
        with bad_input("--rate" if not 0.0 < source.rate_rps < float("inf") else "lengths"):
            return Demand.uniform(prompt, output, source.rate_rps)
    with bad_input("--trace"):
        return Demand.from_requests(read_requests(source, _GENERATED_REQUESTS), source.trace)


def _bounds(option: str, text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not (low.isdecimal() and (high.isdecimal() if colon else not high)):
        fail(f"{option}: expected N or LOW:HIGH in whole tokens, such as 800 or 10:1600, got {text!r}")
    return int(low), int(high or low)
