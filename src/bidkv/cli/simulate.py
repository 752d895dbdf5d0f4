"""`bidkv simulate`: strategies compared on one trace, without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.outputs import hand_out, require_report_extra, require_writable
from bidkv.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from bidkv.profiles import StepTimeProfile
    from bidkv.protocol.observer import Observer
    from bidkv.protocol.requests import WorkloadRequest
    from bidkv.results import RunResult
    from bidkv.simulator import EngineConfig, SglangConfig
    from bidkv.simulator.fleet import FleetResult

DEFAULT_STRATEGIES = "preempt-evict,preempt-evict-sjf,static-random,largest-first,bidkv,lcf"
_SYNTHETIC_REQUESTS = 1000
"""Requests of a synthetic workload where no `--limit` says how many."""


class TraceFormat(StrEnum):
    """Formats of `--trace-format`."""

    AUTO = "auto"
    MOONCAKE = "mooncake"
    AZURE = "azure"
    LENGTHS = "lengths"


class EngineName(StrEnum):
    """Engines of `--engine`."""

    VLLM = "vllm"
    SGLANG = "sglang"


class RouterName(StrEnum):
    """Routers of `--router`."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    PREFIX_AWARE = "prefix-aware"


def command(
    trace: Annotated[
        str,
        typer.Option(
            metavar="FILE|azure-conv",
            help="A trace file, a trace that ships (azure-conv, mooncake-conv, arxiv-lengths, "
            "sharegpt-lengths), or a synthetic workload (mixed, long_context, ...), which needs a --rate.",
        ),
    ] = "azure-conv",
    trace_format: Annotated[
        TraceFormat, typer.Option(help="How to read the trace; auto looks at its first line.")
    ] = TraceFormat.AUTO,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="RPS", help="Mean arrival rate; a trace of lengths needs one, others are stretched to it."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Take only the first N requests.")] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="H", help="Repeat the trace, from another place each time, until it is so long."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="S", help="Seed of generated arrivals, repetitions and random strategies."),
    ] = 0,
    strategy: Annotated[
        str, typer.Option(metavar="A[,B...]", help="Strategies to compare: name or name:key=value;key=value.")
    ] = DEFAULT_STRATEGIES,
    profile: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Step-time profile: how long an engine step takes.")
    ] = DEFAULT_PROFILE,
    engine_name: Annotated[
        EngineName,
        typer.Option("--engine", help="Which engine's scheduler to follow, decision for decision."),
    ] = EngineName.VLLM,
    replicas: Annotated[
        int, typer.Option(metavar="N", help="Equal replicas behind a router, on one clock.")
    ] = 1,
    router: Annotated[
        RouterName, typer.Option(help="Which replica a request is sent to, where there are several.")
    ] = RouterName.ROUND_ROBIN,
    num_gpu_blocks: Annotated[
        int, typer.Option(metavar="N", help="KV blocks, the engine's reserved null block included.")
    ] = 600,
    block_size: Annotated[int, typer.Option(metavar="N", help="Tokens per KV block.")] = 16,
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="Most requests running at once.")] = 32,
    max_num_batched_tokens: Annotated[
        int, typer.Option(metavar="N", help="Token budget of one step.")
    ] = 2048,
    enable_prefix_caching: Annotated[
        bool, typer.Option(help="Share KV blocks between equal prefixes (needs hash_ids in the trace).")
    ] = False,
    watermark: Annotated[
        float, typer.Option(metavar="F", help="Share of the blocks an admission must leave free.")
    ] = 0.0,
    async_scheduling: Annotated[
        bool, typer.Option(help="Schedule one step ahead of the tokens, as vLLM does by default on a GPU.")
    ] = False,
    schedule_conservativeness: Annotated[
        float, typer.Option(metavar="F", help="SGLang: scales the output that running requests reserve.")
    ] = 1.0,
    clip_max_new_tokens: Annotated[
        int, typer.Option(metavar="N", help="SGLang: most output tokens that one request reserves.")
    ] = 4096,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the figures as JSON; - is stdout.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the self-contained report page.")
    ] = None,
    decision_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every decision of the one --strategy as JSON lines."),
    ] = None,
) -> None:
    """Compare scheduling strategies on one trace, without a GPU.

    Every strategy runs the identical workload through a simulated engine that schedules as the real one.
    Requests that can never fit into the KV cache are reported and left out.

    \b
    Examples:
      bidkv simulate
      bidkv simulate --strategy preempt-evict,lcf --num-gpu-blocks 800 --html report.html
      bidkv simulate --engine sglang --clip-max-new-tokens 256 --strategy sglang-default,slack-aware,lcf
      bidkv simulate --trace my.jsonl --rate 4 --json - | jq '.runs[].e2e_s'
      bidkv simulate --replicas 4 --router least-loaded --rate 12 --hours 24 --strategy fair
    """
    from bidkv.simulator import EngineConfig, SglangConfig
    from bidkv.simulator.fleet.run import MOST_REPLICAS

    strategies = _strategies(strategy)
    engine: EngineConfig | SglangConfig
    with bad_input("engine options"):
        if engine_name is EngineName.SGLANG:
            if enable_prefix_caching or watermark or async_scheduling:
                fail(
                    "--enable-prefix-caching, --watermark and --async-scheduling: "
                    "the simulated SGLang has none of them"
                )
            engine = SglangConfig(
                # As many tokens as vLLM would have: its null block is none of SGLang's.
                max_total_tokens=(num_gpu_blocks - 1) * block_size,
                page_size=block_size,
                max_running_requests=max_num_seqs,
                chunked_prefill_size=max_num_batched_tokens,
                schedule_conservativeness=schedule_conservativeness,
                clip_max_new_tokens=clip_max_new_tokens,
            )
        else:
            engine = EngineConfig(
                num_gpu_blocks=num_gpu_blocks,
                block_size=block_size,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                enable_prefix_caching=enable_prefix_caching,
                watermark=watermark,
                async_scheduling=async_scheduling,
            )
    with bad_input("--profile"):
        from bidkv.profiles import load_profile

        step_times = load_profile(profile)
    if html_file is not None:
        require_report_extra()
    if decision_log is not None and len(strategies) > 1:
        fail("--decision-log: expected one --strategy: a log tells of one run")
    if not 1 <= replicas <= MOST_REPLICAS:
        fail(f"--replicas: expected a number from 1 to {MOST_REPLICAS:,}, got {str(replicas)[:40]}")
    if decision_log is not None and replicas > 1:
        fail("--decision-log: expected one replica: a log tells of one engine")
    outputs = (
        ("--json", json_file if json_file != "-" else None),
        ("--html", html_file),
        ("--decision-log", decision_log),
    )
    for option, file in outputs:
        if file is not None:
            require_writable(option, Path(file))

    requests, left_out = _workload(trace, trace_format, rate, limit, hours, seed, engine)
    fleets: list[FleetResult] = []
    if replicas > 1:
        fleets = _run_fleets(strategies, requests, engine, step_times, seed, replicas, router)
        results = [fleet.merged for fleet in fleets]
    else:
        with _decision_log(decision_log) as log:
            results = _run_all(strategies, requests, engine, step_times, seed, log)
    config = {
        "trace": trace,
        "trace_format": trace_format.value,
        "rate_rps": rate,
        "limit": limit,
        "hours": hours,
        "seed": seed,
        "strategies": strategies,
        "profile": profile,
        "engine": engine_name.value,
        "replicas": replicas,
        "router": router.value if replicas > 1 else None,
        "num_gpu_blocks": num_gpu_blocks,
        "block_size": block_size,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enable_prefix_caching": enable_prefix_caching,
        "watermark": watermark,
        "async_scheduling": async_scheduling,
        "schedule_conservativeness": schedule_conservativeness,
        "clip_max_new_tokens": clip_max_new_tokens,
        "requests": len(requests),
        "arrival_rate_rps": _arrival_rate_rps(requests),
        "left_out": left_out,
    }
    hand_out(results, config, json_file, html_file, fleets)


def _strategies(text: str) -> list[str]:
    """Split and check `--strategy`."""
    from bidkv.policy import resolve

    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        fail("--strategy: expected at least one strategy")
    for name in names:
        with bad_input("--strategy"):
            resolve(name)
        if names.count(name) > 1:
            fail(f"--strategy: {name!r} is named twice")
    return names


def _workload(
    trace: str,
    trace_format: TraceFormat,
    rate: float | None,
    limit: int | None,
    hours: float | None,
    seed: int,
    engine: EngineConfig | SglangConfig,
) -> tuple[list[WorkloadRequest], int]:
    """Read the trace once, so that every strategy gets the identical requests; count those left out."""
    from bidkv.workloads import leave_out_unfit, repeat_for

    with bad_input("--trace"):
        source = _source(trace, trace_format, rate, limit, seed)
        if hours is not None:
            with bad_input("--hours"):
                source = repeat_for(source, 3600.0 * hours, seed)
        fitting, report = leave_out_unfit(source, engine.usable_blocks, engine.block_size)
        requests = list(fitting)
    if report.left_out:
        typer.echo(f"bidkv: {report}", err=True)
    if not requests:
        fail("--num-gpu-blocks: no request of the trace fits into the KV cache")
    return requests, report.left_out


def _source(
    trace: str, trace_format: TraceFormat, rate: float | None, limit: int | None, seed: int
) -> Iterator[WorkloadRequest]:
    from bidkv.workloads import available_workloads, generate
    from bidkv.workloads.traces import read_trace

    if trace not in available_workloads():
        return read_trace(trace, trace_format=trace_format.value, rate_rps=rate, limit=limit, seed=seed)
    if rate is None:
        raise ValueError(f"the synthetic workload {trace!r} has no arrivals of its own: state a --rate")
    return generate(trace, n=_SYNTHETIC_REQUESTS if limit is None else limit, rate_rps=rate, seed=seed)


def _arrival_rate_rps(requests: Sequence[WorkloadRequest]) -> float | None:
    """Mean arrival rate; None where there is none to speak of (one request, or all at one instant)."""
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    return (len(requests) - 1) / span_s if span_s > 0.0 else None


def _run_all(
    strategies: Sequence[str],
    requests: Sequence[WorkloadRequest],
    engine: EngineConfig | SglangConfig,
    profile: StepTimeProfile,
    seed: int,
    observer: Observer | None,
) -> list[RunResult]:
    from bidkv.policy import resolve
    from bidkv.simulator import simulate

    results = []
    with _progress(len(strategies) * len(requests)) as advance:
        for index, name in enumerate(strategies):
            before = index * len(requests)
            advance(name, before)
            result = simulate(
                requests,
                resolve(_seeded(name, seed)),
                engine,
                profile,
                observer=observer,
                progress=lambda done, _, name=name, before=before: advance(name, before + done),  # type: ignore[misc]
            )
            # A result is called what its strategy was asked for as, options included.
            results.append(replace(result, strategy=name))
    return results


def _run_fleets(
    strategies: Sequence[str],
    requests: Sequence[WorkloadRequest],
    engine: EngineConfig | SglangConfig,
    profile: StepTimeProfile,
    seed: int,
    replicas: int,
    router: RouterName,
) -> list[FleetResult]:
    from bidkv.policy import resolve
    from bidkv.simulator.fleet import simulate_fleet

    fleets = []
    with _progress(len(strategies) * len(requests)) as advance:
        for index, name in enumerate(strategies):
            before = index * len(requests)
            advance(name, before)
            fleet = simulate_fleet(
                requests,
                resolve(_seeded(name, seed)),
                engine,
                profile,
                replicas=replicas,
                router=router.value,
                progress=lambda sent, _, name=name, before=before: advance(name, before + sent),  # type: ignore[misc]
            )
            fleets.append(fleet.named(name))
    return fleets


def _seeded(spec: str, seed: int) -> str:
    """Give a strategy that draws at random the run's seed, unless its own text states one."""
    from bidkv.policy import policy_options

    name, _, options = spec.partition(":")
    if "seed" not in policy_options(name) or "seed" in (
        part.split("=")[0].strip() for part in options.split(";")
    ):
        return spec
    return f"{name}:{options};seed={seed}"


@contextmanager
def _decision_log(path: Path | None) -> Iterator[Observer | None]:
    """Yield a log that holds this run alone, as a whole: nothing is rotated away."""
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


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Show a bar on a terminal's stderr; yield what moves it, called with (strategy, requests done)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, done: bar.update(task, description=name, completed=done)
