"""`bidkv simulate`: strategies compared on one workload, without a GPU."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bidkv.cli import options as opt
from bidkv.cli.engine_options import EngineOptions, read_profile, take_hash_chunks
from bidkv.cli.errors import fail
from bidkv.cli.option_groups import expand_groups
from bidkv.cli.outputs import require_all_writable, require_extra
from bidkv.cli.simulation import Simulation, check_strategies, read_figures, show_results
from bidkv.cli.workload import (
    FileStatements,
    SessionOptions,
    Workload,
    WorkloadOptions,
    finish_stream,
    note_unread_fields,
    read_workload,
    stream_workload,
)
from bidkv.command_line.config_file import with_config
from bidkv.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from pathlib import Path

_NOTHING_STATED = FileStatements()
_OWN_STARTS = SessionOptions()
_DEFAULT_SERVER = EngineOptions()

DEFAULT_STRATEGIES = "preempt-evict,preempt-evict-sjf,static-random,largest-first,bidkv,lcf,fair,fast,on-time"
"""The contract's strategies and this project's own policies, for single requests."""

SESSION_STRATEGIES = "preempt-evict,fair,sessions"
"""vLLM's own order, and this project's policies for sessions."""


@with_config
@expand_groups
def command(
    trace: opt.Trace = opt.DEFAULT_TRACE,
    workload: opt.WorkloadName = None,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    rate: opt.Rate = None,
    limit: opt.Limit = None,
    hours: opt.Hours = None,
    stream: opt.Stream = False,
    starts: SessionOptions = _OWN_STARTS,
    duration_s: opt.Duration = None,
    seed: opt.Seed = 0,
    strategy: opt.Strategies = None,
    profile: opt.Profile = DEFAULT_PROFILE,
    replicas: opt.Replicas = 1,
    router: opt.Router = opt.RouterName.ROUND_ROBIN,
    server: EngineOptions = _DEFAULT_SERVER,
    figures: opt.Figures = None,
    json_file: opt.JsonFile = None,
    html_file: opt.HtmlFile = None,
    decision_log: opt.DecisionLog = None,
) -> None:
    """Compare scheduling strategies on one workload, without a GPU.

    Every strategy runs the same requests or sessions through a simulated engine that schedules as the real
    one does. A turn of a session is sent after the answer to the turn before. Requests that can never fit
    into the KV cache are reported and left out. Unless stated, the engine is as large as a vLLM server on
    the profile's GPU.

    \b
    Examples:
      bidkv simulate
      bidkv simulate --strategy preempt-evict,lcf --num-gpu-blocks 800 --max-num-seqs 32 --html report.html
      bidkv simulate --workload agents --sessions 80 --concurrent-sessions 40 --enable-prefix-caching
      bidkv simulate --engine sglang --clip-max-new-tokens 256 --strategy sglang-default,lcf
      bidkv simulate --trace my.jsonl --rate 4 --json - | jq '.runs[].e2e_s'
      bidkv simulate --replicas 4 --router least-loaded --rate 12 --hours 24 --strategy fair
    """
    strategies = [] if strategy is None else check_strategies(strategy)
    columns = read_figures(figures)
    step_times = read_profile(profile)
    server = server.ask_server()
    replica = server.make_engine(step_times)
    _check(strategies, replicas, duration_s, json_file, html_file, decision_log)
    if workload is not None and trace != opt.DEFAULT_TRACE:
        fail("--trace and --workload: expected only one of them, since each names what is run")
    named_by = "--trace" if workload is None else "--workload"
    source = WorkloadOptions(
        workload or trace, trace_format, rate, limit, hours, seed, starts, stated, named_by
    )
    if stream and html_file is not None:
        fail("--html: expected a run that keeps its requests: leave --stream out")
    read = stream_workload if stream else read_workload
    work = read(source, replica.usable_blocks, replica.block_size)
    replica = take_hash_chunks(replica, work.tokens_per_hash_id)
    note_unread_fields(work, replica, strategies)
    if replicas > 1 and work.sessions:
        fail("--replicas: expected one replica: sessions are simulated on a single one")
    strategies = strategies or check_strategies(SESSION_STRATEGIES if work.sessions else DEFAULT_STRATEGIES)
    simulation = Simulation(work, replica, step_times, seed, duration_s)
    fleets = simulation.run_fleets(strategies, replicas, router.value) if replicas > 1 else []
    results = [fleet.merged for fleet in fleets] or simulation.run_all(strategies, decision_log)
    work = finish_stream(work)
    config = {
        **_workload_config(source, work, strategies),
        "profile": profile,
        "replicas": replicas,
        "router": router.value if replicas > 1 else None,
        **server.as_config(step_times),
        **_session_config(starts, duration_s, len(work.sessions)),
    }
    show_results(results, config, json_file, html_file, fleets, columns)


def _workload_config(source: WorkloadOptions, work: Workload, strategies: list[str]) -> dict[str, Any]:
    stated = {name: value for name, value in asdict(source.statements).items() if value is not None}
    return {
        "trace": source.trace,
        "trace_format": source.trace_format,
        "trace_options": stated or None,
        "trace_report": None if work.report is None else work.report.as_dict(),
        "rate_rps": source.rate_rps,
        "limit": source.limit,
        "hours": source.hours,
        "seed": source.seed,
        "strategies": strategies,
        "requests": work.size,
        "arrival_rate_rps": work.arrival_rate_rps,
        "left_out": work.left_out,
    }


def _session_config(starts: SessionOptions, duration_s: float | None, number: int) -> dict[str, Any]:
    given = asdict(starts)
    if starts.concurrent_sessions is None:
        given["session_stagger_s"] = None
    return {**given, "sessions": number or None, "duration_s": duration_s}


def _check(
    strategies: list[str],
    replicas: int,
    duration_s: float | None,
    json_file: str | None,
    html_file: Path | None,
    decision_log: Path | None,
) -> None:
    """Refuse before the run what could not be done after it."""
    from bidkv.simulator.fleet.run import MOST_REPLICAS

    if html_file is not None:
        require_extra("report", "--html")
    if decision_log is not None and len(strategies) != 1:
        fail("--decision-log: expected one --strategy: a log tells of one run")
    if not 1 <= replicas <= MOST_REPLICAS:
        fail(f"--replicas: expected a number from 1 to {MOST_REPLICAS:,}, got {str(replicas)[:40]}")
    if decision_log is not None and replicas > 1:
        fail("--decision-log: expected one replica: a log tells of one engine")
    if duration_s is not None:
        if not 0.0 < duration_s < float("inf"):
            fail(f"--duration-s: expected seconds above 0, got {duration_s}")
        if replicas > 1:
            fail("--duration-s: expected one replica: the run of a fleet is not cut")
    require_all_writable((("--json", json_file), ("--html", html_file), ("--decision-log", decision_log)))
