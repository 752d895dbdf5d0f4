"""`bidkv plan`: whether a load can be sustained, how many replicas it takes, and what limits them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bidkv.cli import options as opt
from bidkv.cli import plan_options as own
from bidkv.cli.engine_options import EngineOptions, read_profile
from bidkv.cli.errors import bad_input, fail
from bidkv.cli.machine_options import MachineOptions
from bidkv.cli.option_groups import expand_groups
from bidkv.cli.outputs import require_all_writable, require_extra, write_json
from bidkv.cli.plan_run import PICTURES, PlanRun, counted_trials
from bidkv.cli.workload import (
    FileStatements,
    SessionOptions,
    WorkloadOptions,
    check_numbers,
    read_requests,
)
from bidkv.command_line.config_file import with_config
from bidkv.command_line.server_options import SchedulerOptions
from bidkv.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from bidkv.cli.plan_run import Tests
    from bidkv.evaluation.latency_target import LatencyTarget
    from bidkv.planning import CapacityPlan, Demand, Sizing
    from bidkv.profiles import StepTimeProfile
    from bidkv.protocol.sessions import Session
    from bidkv.simulator import EngineConfig

_GENERATED_REQUESTS = 4000
"""Requests of a generated workload where no `--limit` states their number: enough for its law of lengths."""

_GENERATED_SESSIONS = 300
"""Sessions of a workload that a plan looks at where `--sessions` states no number."""

NOT_POSSIBLE = 1
"""Exit code where no number of replicas keeps the target."""

_MOST_REFUSED = 0.5
"""Largest share of requests that are too long for the cache with which a plan says anything."""

_NOTHING_STATED = FileStatements()
_ENGINES_OWN = SchedulerOptions()

_NO_MACHINE = MachineOptions()


@with_config
@expand_groups
def command(
    trace: opt.Trace = opt.DEFAULT_TRACE,
    trace_format: opt.TraceFormatOption = "auto",
    stated: FileStatements = _NOTHING_STATED,
    prompt_tokens: own.PromptTokens = None,
    output_tokens: own.OutputTokens = None,
    rate: own.PlannedRate = None,
    limit: opt.Limit = None,
    profile: opt.Profile = DEFAULT_PROFILE,
    model: own.ModelConfig = None,
    machine: MachineOptions = _NO_MACHINE,
    from_server: opt.FromServer = None,
    num_gpu_blocks: opt.NumGpuBlocks = None,
    block_size: opt.BlockSize = None,
    max_num_seqs: opt.MaxNumSeqs = None,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None,
    scheduler: SchedulerOptions = _ENGINES_OWN,
    cached_prompt_share: own.CachedPromptShare = 0.0,
    sessions: opt.Sessions = None,
    session_rate: opt.SessionRate = None,
    users: own.Users = None,
    think: own.Think = 0.0,
    growth: own.Growth = 2.0,
    target_utilization: own.TargetUtilization = None,
    slo_ttft_p99_ms: own.TtftTarget = None,
    slo_tpot_ms: own.TpotTarget = None,
    simulate: own.TestBySimulation = False,
    closed_form: own.ClosedForm = False,
    router: opt.Router = opt.RouterName.ROUND_ROBIN,
    json_file: opt.JsonFile = None,
    picture: own.Picture = None,
) -> None:
    """Plan capacity: what a replica sustains, how many it takes, what limits them, what more would gain.

    The plan is computed in closed form from the lengths of a trace (or stated ones) and a step-time profile;
    docs/reference/stability.md has the theory and its errors against simulation. With a target (--slo-...)
    the number of replicas is found by simulating fleets. --simulate tests any plan by simulation. The exit
    code is 1 when no number of replicas keeps the target.

    \b
    Examples:
      bidkv plan
      bidkv plan --trace my.jsonl --slo-ttft-p99-ms 500 --growth 3 --picture plan.html
      bidkv plan --prompt-tokens 10:1600 --output-tokens 10:1600 --rate 12 --simulate
      bidkv plan --prompt-tokens 800 --output-tokens 200 --users 400 --think 20 --slo-ttft-p99-ms 500
      bidkv plan --trace agents-20-turns --session-rate 0.4
      bidkv plan --trace agents-8-turns --users 60 --think 20 --slo-ttft-p99-ms 2000
      bidkv plan --model config.json --gpu a100 --tensor-parallel 4 --kv-cache-dtype fp8
    """
    _check_outputs(json_file, picture)
    options = EngineOptions(
        num_gpu_blocks=num_gpu_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=machine.max_model_len,
        from_server=from_server,
        **asdict(scheduler),
    ).ask_server()
    # A server's prefix cache counts only where it is asked for: here its hits are taken from the trace.
    options = replace(options, enable_prefix_caching=scheduler.enable_prefix_caching)
    if model is None:
        machine.refuse_without("--model")
        step_times = read_profile(profile)
    else:
        if profile != DEFAULT_PROFILE:
            fail("--profile and --model: expected only one of them, since each says how long steps take")
        server = machine.server(*options.limits)
        step_times = machine.make_profile("--model", model, None, server)
    engine = options.make_vllm(step_times)
    _question_blocks(step_times, engine)
    if simulate and cached_prompt_share:
        fail("--simulate: simulated prompts share nothing: leave --cached-prompt-share out")
    target = _target(slo_ttft_p99_ms, slo_tpot_ms)
    _check_users(users, think, rate, session_rate)
    many = SessionOptions(sessions=sessions or _GENERATED_SESSIONS, sessions_at_once=True)
    if prompt_tokens is None and output_tokens is None:
        found = _sessions(
            WorkloadOptions(trace, trace_format, rate, limit, sessions=many, statements=stated), engine
        )
        if found:
            if simulate or picture is not None or cached_prompt_share:
                fail("--trace: sessions are planned without --simulate, --picture and --cached-prompt-share")
            if not target.is_empty and closed_form:
                fail("--closed-form: the replicas that keep a target for sessions are found by simulation")
            asked = (session_rate, users, think, target_utilization)
            _plan_sessions(found, trace, (engine, step_times), target, asked, json_file)
            return
    if session_rate is not None:
        fail("--session-rate: expected a workload of sessions")
    source = WorkloadOptions(trace, trace_format, rate, limit, statements=stated)
    demand = _demand(source, prompt_tokens, output_tokens, users)
    closed = None if users is None else (users, think)
    kv_bits = 8 if machine.kv_cache_dtype.value.startswith("fp8") else 16
    run = PlanRun(
        demand, engine, step_times, target, growth, target_utilization, cached_prompt_share, kv_bits
    )
    if engine.enable_prefix_caching and any(request.hash_ids for request in demand.requests):
        if cached_prompt_share:
            fail("--cached-prompt-share and --enable-prefix-caching: the trace says itself what it repeats")
        run = run.with_prefix_hits()
    if closed is not None:
        run = run.closed(*closed)
    is_sized = run.is_sized_by_simulation(closed_form, forced=simulate)
    _note_switches(scheduler, run, simulate, is_sized)
    plan = run.make_plan()
    if plan.service.refused_share > _MOST_REFUSED:
        fail(
            f"--num-gpu-blocks, --max-model-len: {plan.service.refused_share:.0%} of the requests exceed the "
            f"{run.shape.longest_tokens:,} tokens that a server takes of one"
        )
    plan, sizing = run.size(plan, router.value) if is_sized else (plan, None)
    tests = run.test(plan, router.value) if simulate else ([], None)
    if picture is not None:  # before anything is printed, which a closed pipe would end
        run.draw(plan, picture)
    is_stdout_taken = _write(plan, sizing, engine, tests, json_file)
    if picture is not None:
        typer.echo(f"picture: {picture}", err=is_stdout_taken)
    if plan.replicas is None:
        raise typer.Exit(NOT_POSSIBLE)


def _question_blocks(step_times: StepTimeProfile, engine: EngineConfig) -> None:
    """Say it where more blocks are stated than the profile's GPU holds."""
    if step_times.num_gpu_blocks is not None and engine.num_gpu_blocks > 1.1 * step_times.num_gpu_blocks:
        typer.echo(
            f"bidkv: --num-gpu-blocks: about {step_times.num_gpu_blocks:,} blocks of 16 tokens fit beside "
            "the weights on the profile's GPU",
            err=True,
        )


def _note_switches(scheduler: SchedulerOptions, run: PlanRun, simulate: bool, is_sized: bool) -> None:
    """Say once which stated options the closed form does not read, unless simulated fleets read them."""
    read = {"enable_prefix_caching"} if run.are_hits_measured else set()
    stated = scheduler.stated_switches().keys() - read
    if stated and not is_sized:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(stated))
        reads = "the simulated test alone reads it" if simulate else "--simulate tests the plan with it"
        typer.echo(f"bidkv: note: the closed form does not read {names}: {reads}", err=True)


def _write(
    plan: CapacityPlan, sizing: Sizing | None, engine: EngineConfig, tests: Tests, json_file: str | None
) -> bool:
    """Write the plan as JSON or text; return whether stdout is taken by JSON."""
    from bidkv.planning.text import plan_text

    checks, fleet = tests
    document = plan.as_dict() | {
        "num_gpu_blocks": engine.num_gpu_blocks,
        "checks": [asdict(check) for check in checks],
        "fleet": None if fleet is None else asdict(fleet),
        "sizing": None if sizing is None else asdict(sizing),
    }
    is_stdout_taken = write_json(document, json_file)
    if not is_stdout_taken:
        typer.echo(
            f"replica: {engine.num_gpu_blocks:,} KV blocks, {engine.max_num_seqs:,} sequences, "
            f"{engine.max_num_batched_tokens:,} tokens a step"
        )
        typer.echo(plan_text(plan, checks, fleet, sizing))
    return is_stdout_taken


def _check_users(users: int | None, think: float, rate: float | None, session_rate: float | None) -> None:
    if users is None:
        if think:
            fail("--think: expected --users, whose requests it separates")
        return
    if users < 1:
        fail(f"--users: expected a whole number above 0, got {users}")
    if not 0.0 <= think < float("inf"):
        fail(f"--think: expected seconds, at least 0, got {think}")
    for option, value in (("--rate", rate), ("--session-rate", session_rate)):
        if value is not None:
            fail(f"--users and {option}: expected only one of them, since each says how many requests arrive")


def _sessions(source: WorkloadOptions, engine: EngineConfig) -> Sequence[Session]:
    """Return the sessions of a workload; nothing for single requests."""
    from bidkv.cli.workload import longest_context, read_workload
    from bidkv.workloads.resolver import resolve_workload
    from bidkv.workloads.traces import open_trace

    with bad_input("--trace"):
        found = resolve_workload(source.trace)
        if found.has_sessions is None and source.rate_rps is None:
            stated = source.statements.make_options()
            opened = open_trace(found.name, trace_format=source.trace_format, options=stated)
            has_sessions = opened.has_sessions
        else:
            has_sessions = bool(found.has_sessions)
    if not has_sessions:
        return ()
    read = read_workload(source, engine.usable_blocks, engine.block_size).sessions
    fitting = [session for session in read if longest_context(session) <= engine.model_len]
    if left_out := len(read) - len(fitting):
        line = f"{left_out:,} of {len(read):,} sessions: their contexts exceed {engine.model_len:,} tokens"
        if not fitting:
            fail(f"--max-model-len: a server refuses {line}")
        typer.echo(f"bidkv: --max-model-len: left out {line}", err=True)
    return fitting


def _plan_sessions(
    sessions: Sequence[Session],
    source: str,
    replica: tuple[EngineConfig, StepTimeProfile],
    target: LatencyTarget,
    asked: tuple[float | None, int | None, float, float | None],
    json_file: str | None,
) -> None:
    from bidkv.planning.session_plan import plan_sessions, session_plan_text

    engine, profile = replica
    session_rate, users, think_s, target_utilization = asked
    with bad_input("options"), counted_trials() if not target.is_empty else nullcontext() as told:
        plan = plan_sessions(
            sessions,
            source,
            engine,
            profile,
            target=target,
            session_rate=session_rate,
            users=users,
            think_s=think_s,
            target_utilization=target_utilization,
            on_check=told,
        )
    if not write_json(plan.as_dict() | {"num_gpu_blocks": engine.num_gpu_blocks}, json_file):
        typer.echo(
            f"replica: {engine.num_gpu_blocks:,} KV blocks, {engine.max_num_seqs:,} sequences, "
            f"{engine.max_num_batched_tokens:,} tokens a step, prefix caching"
        )
        typer.echo(session_plan_text(plan))
    if not target.is_empty and all(order.check is None for order in plan.orders):
        raise typer.Exit(NOT_POSSIBLE)


def _check_outputs(json_file: str | None, picture: Path | None) -> None:
    if picture is not None:
        if picture.suffix not in PICTURES:
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


def _demand(
    source: WorkloadOptions, prompt_tokens: str | None, output_tokens: str | None, users: int | None
) -> Demand:
    from bidkv.planning import Demand

    if (prompt_tokens is None) != (output_tokens is None):
        fail("--prompt-tokens and --output-tokens: state both or neither")
    if prompt_tokens is not None and source.trace != opt.DEFAULT_TRACE:
        fail("--trace and --prompt-tokens: expected only one of them, since each says how long requests are")
    if prompt_tokens is not None and output_tokens is not None:
        if users is not None:
            source = replace(source, rate_rps=1.0)  # of lengths alone; the users make their own rate
        if source.rate_rps is None:
            fail("--rate: stated lengths have no arrivals of their own: state a rate")
        prompt, output = _bounds("--prompt-tokens", prompt_tokens), _bounds("--output-tokens", output_tokens)
        with bad_input("--rate"):
            return Demand.uniform(prompt, output, source.rate_rps)
    from bidkv.workloads.resolver import resolve_workload

    check_numbers(source)
    with bad_input("--trace"):
        is_generated = resolve_workload(source.trace).is_generated
    if is_generated and users is not None:
        source = replace(source, rate_rps=1.0)
    if is_generated and source.rate_rps is None:
        fail(f"--rate: the workload {source.trace!r} has no arrival times of its own: state a rate")
    with bad_input("--trace"):
        return Demand.from_requests(read_requests(source, _GENERATED_REQUESTS), source.trace)


def _bounds(option: str, text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not (low.isdecimal() and (high.isdecimal() if colon else not high)):
        fail(f"{option}: expected N or LOW:HIGH in whole tokens, such as 800 or 10:1600, got {text!r}")
    bounds = int(low), int(high or low)
    if not 1 <= bounds[0] <= bounds[1]:
        fail(f"{option}: expected 1 <= LOW <= HIGH, got {text!r}")
    return bounds
