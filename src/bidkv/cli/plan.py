"""`bidkv plan`: can a load be sustained, how many replicas does it take, what limits them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import require_report_extra, require_writable
from bidkv.cli.simulate import RouterName, TraceFormat
from bidkv.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from bidkv.planning import Demand
    from bidkv.protocol.requests import WorkloadRequest

_SYNTHETIC_REQUESTS = 4000
"""Requests of a synthetic workload where no `--limit` says how many."""


def command(
    trace: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME",
            help="A trace file, a trace that ships, or a synthetic workload (with --rate).",
        ),
    ] = "azure-conv",
    trace_format: Annotated[
        TraceFormat, typer.Option(help="How to read the trace; auto looks at its first line.")
    ] = TraceFormat.AUTO,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Uniform prompt lengths instead of a trace (with --rate)."),
    ] = None,
    output_tokens: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Uniform output lengths instead of a trace (with --rate)."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="RPS", help="Arrivals a second; a trace's own when left out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Take only the first N requests.")] = None,
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Step-time profile: how long an engine step takes.")
    ] = DEFAULT_PROFILE,
    num_gpu_blocks: Annotated[
        int, typer.Option(metavar="N", help="KV blocks of a replica, the reserved null block included.")
    ] = 8192,
    block_size: Annotated[int, typer.Option(metavar="N", help="Tokens per KV block.")] = 16,
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="Most requests running at once.")] = 256,
    max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="N", help="Token budget of one step.")
    ] = 2048,
    cached_prompt_share: Annotated[
        float, typer.Option(metavar="F", help="Share of prompt tokens found in the prefix cache.")
    ] = 0.0,
    growth: Annotated[float, typer.Option(metavar="X", help="Plan also for this many times the load.")] = 2.0,
    target_utilization: Annotated[
        float, typer.Option(metavar="F", help="Share of the sustainable rate a replica should carry.")
    ] = 0.8,
    slo_ttft_p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Promise: 99th percentile of the time to first token.")
    ] = None,
    slo_tpot_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Promise: mean time per output token.")
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Put the plan to the test: 0.9, 1.0 and 1.1 of the rate, and whole fleets."
        ),
    ] = False,
    router: Annotated[
        RouterName, typer.Option(help="What sends requests to the replicas of a simulated fleet.")
    ] = RouterName.ROUND_ROBIN,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the plan as JSON; - is stdout.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a replica from idle to its limit (.html, .svg or .png)."),
    ] = None,
) -> None:
    """Plan capacity: what a replica sustains, how many it takes, what limits them, what more would buy.

    In closed form, from the lengths of a trace (or stated ones) and a step-time profile;
    docs/reference/stability.md has the theory and its errors against simulation. --simulate runs the planned
    fleets, too.

    \b
    Examples:
      bidkv plan
      bidkv plan --trace my.jsonl --slo-ttft-p99-ms 500 --growth 3 --picture plan.html
      bidkv plan --prompt-tokens 10:1600 --output-tokens 10:1600 --rate 12 --simulate
    """
    from bidkv.evaluation.latency_target import LatencyTarget
    from bidkv.planning import check_rates, make_plan, verify_fleet
    from bidkv.planning.text import plan_text
    from bidkv.simulator import EngineConfig
    from bidkv.stability import ReplicaShape

    if picture is not None:
        if picture.suffix not in (".html", ".svg", ".png"):
            fail(f"--picture: expected a name that ends in .html, .svg or .png, got {str(picture)!r}")
        require_report_extra()
    for option, file in (("--json", json_file if json_file != "-" else None), ("--picture", picture)):
        if file is not None:
            require_writable(option, Path(file))
    with bad_input("--profile"):
        from bidkv.profiles import load_profile

        step_times = load_profile(profile)
    with bad_input("engine options"):
        engine = EngineConfig(
            num_gpu_blocks=num_gpu_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
        )
        shape = ReplicaShape(engine.usable_blocks, block_size, max_num_seqs, max_num_batched_tokens)
    if simulate and cached_prompt_share:
        fail("--simulate: simulated prompts share nothing: leave --cached-prompt-share out")
    for option, bound in (("--slo-ttft-p99-ms", slo_ttft_p99_ms), ("--slo-tpot-ms", slo_tpot_ms)):
        if bound is not None and not bound > 0.0:
            fail(f"{option}: expected milliseconds above 0, got {bound}")
    target = LatencyTarget(_seconds(slo_ttft_p99_ms), _seconds(slo_tpot_ms))
    demand = _demand(trace, trace_format, prompt_tokens, output_tokens, rate, limit)
    with bad_input("options"):
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
        checks = check_rates(demand, plan.service, engine, step_times)
        fleet = verify_fleet(plan, demand, engine, step_times, target=target, router=router.value)
    if json_file is not None:
        document = plan.as_dict() | {
            "checks": [asdict(c) for c in checks],
            "fleet": None if fleet is None else asdict(fleet),
        }
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        if json_file == "-":
            typer.echo(text, nl=False)
        else:
            Path(json_file).write_text(text, encoding="utf-8")
    if json_file != "-":
        typer.echo(plan_text(plan, checks, fleet))
    if picture is not None:
        from bidkv.planning.picture import load_curve, plan_chart, write_picture

        write_picture(picture, plan_chart(plan, load_curve(demand, shape, step_times, cached_prompt_share)))
        typer.echo(f"picture: {picture}", err=json_file == "-")


def _demand(
    trace: str,
    trace_format: TraceFormat,
    prompt_tokens: str | None,
    output_tokens: str | None,
    rate: float | None,
    limit: int | None,
) -> Demand:
    from bidkv.planning import Demand

    if (prompt_tokens is None) != (output_tokens is None):
        fail("--prompt-tokens and --output-tokens: state both or neither")
    if prompt_tokens is not None and output_tokens is not None:
        if rate is None:
            fail("--rate: stated lengths have no arrivals of their own: state a rate")
        prompt, output = _bounds("--prompt-tokens", prompt_tokens), _bounds("--output-tokens", output_tokens)
        with bad_input("lengths"):
            return Demand.uniform(prompt, output, rate)
    with bad_input("--trace"):
        return Demand.from_requests(_requests(trace, trace_format, rate, limit), trace)


def _requests(
    trace: str, trace_format: TraceFormat, rate: float | None, limit: int | None
) -> Iterator[WorkloadRequest]:
    from bidkv.workloads import available_workloads, generate
    from bidkv.workloads.traces import read_trace

    if trace not in available_workloads():
        return read_trace(trace, trace_format=trace_format.value, rate_rps=rate, limit=limit)
    if rate is None:
        raise ValueError(f"the synthetic workload {trace!r} has no arrivals of its own: state a --rate")
    return generate(trace, n=_SYNTHETIC_REQUESTS if limit is None else limit, rate_rps=rate, seed=0)


def _bounds(option: str, text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal()):
        fail(f"{option}: expected LOW:HIGH in whole tokens, such as 10:1600, got {text!r}")
    return int(low), int(high)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
