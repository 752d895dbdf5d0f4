"""From a runner's options to what they ask for: a plan, and the simulator's driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, cast

from bidkv.evaluation.saturation import queued_throughput_rps
from bidkv.experiments.options import DEFAULT_RATES, LOAD_SHARES, EngineKind, RunnerOptions, dashed_name
from bidkv.experiments.parallel import BACKENDS, Backend, map_on_cores
from bidkv.experiments.plan import ExperimentPlan, LoadPoint, Shard, make_labels
from bidkv.experiments.session_load import has_sessions
from bidkv.experiments.simulated_driver import SESSION_DEFAULTS, SimConfig, SimDriver, SimEngine
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.texts import split_list
from bidkv.simulator import EngineConfig
from bidkv.workloads import leave_out_unfit
from bidkv.workloads.resolver import make_requests, tokens_per_hash_id
from bidkv.workloads.traces import TraceError, TraceOptions
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

_SATURATION_REQUESTS = 400
_SATURATION_REQUESTS_A_SEQUENCE = 8
"""Requests simulated to find a saturation rate, the more of both: enough that fill and drain weigh little."""

_AT_ONCE_RPS = 1e6
"""Arrivals per second at which all of those requests wait from the start."""


class UsageError(Exception):
    """The options make no sense together; the message says which, and what was expected."""


def make_plan(given: RunnerOptions, kind: EngineKind, workload_rates: Mapping[str, str]) -> ExperimentPlan:
    """Return what the options ask for.

    Args:
        given: the options.
        kind: what the command line is about.
        workload_rates: texts of `--WORKLOAD-rates`, by dashed workload name.

    Raises:
        UsageError: they make no sense; the message names the option.
    """
    strategies = _split(given.strategies, "--strategies")
    for name in strategies:
        try:
            resolve(name)
        except ValueError as error:
            raise UsageError(f"--strategies: {error}") from error
    stated = _read_statements(given)
    loads = [
        load
        for workload in _split(given.workloads, "--workloads")
        for load in _read_loads(given, kind, workload, workload_rates)
    ]
    engine = choose_engine(given, kind)
    options = kind.engine_options(given)
    if engine == "sim":
        # Sizes in effect, those of the defaults too: a folder is not continued on another engine.
        options |= asdict(read_simulated(given, kind))
        options |= {"scheduler": kind.name, "profile": given.profile, "noise": given.noise}
    else:
        options |= {"server_args": given.server_args, "warmup": given.warmup, "restart": given.restart}
        _require_usual_chunks(loads, stated)
    if any(has_sessions(load.workload, stated) for load in loads):
        options |= _read_session_options(given)
    if given.statements():
        options["trace_options"] = given.statements()
    try:
        return ExperimentPlan(
            engine=engine,
            strategies=make_labels(strategies),
            loads=tuple(dict.fromkeys(loads)),
            runs=given.runs,
            requests=given.requests,
            seed=given.seed,
            options=options,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _read_statements(given: RunnerOptions) -> TraceOptions:
    try:
        return TraceOptions.from_statements(given.statements())
    except ValueError as error:
        raise UsageError(str(error)) from error


def _require_usual_chunks(loads: Sequence[LoadPoint], stated: TraceOptions) -> None:
    """Refuse files whose hash ids stand for other numbers of tokens than those that prompts are made of."""
    for workload in {load.workload for load in loads}:
        chunk = tokens_per_hash_id(workload, stated)
        if chunk not in (None, HASH_CHUNK_TOKENS):
            raise UsageError(
                f"--workloads: {workload} has {chunk} tokens a hash id, and a real server's prompts are made "
                f"of {HASH_CHUNK_TOKENS}: bidkv trace convert {workload} FILE writes such ids"
            )


def _with_chunks(config: SimConfig, given: RunnerOptions) -> SimConfig:
    """Return the engine with the size of hash chunks of the files that are run."""
    if not isinstance(config, EngineConfig) or not config.enable_prefix_caching:
        return config
    stated = _read_statements(given)
    workloads = _split(given.workloads, "--workloads")
    sizes = {size for w in workloads if (size := tokens_per_hash_id(w, stated)) is not None}
    if len(sizes) > 1:
        raise UsageError(f"--workloads: expected one number of tokens a hash id, found {sorted(sizes)}")
    return replace(config, prefix_chunk_tokens=sizes.pop()) if sizes else config


def choose_engine(given: RunnerOptions, kind: EngineKind) -> str:
    """Return the engine's name: the runner's own, or "sim".

    Raises:
        UsageError: another engine.
    """
    if given.engine not in (None, kind.name, "sim"):
        raise UsageError(f"--engine: expected {kind.name} or sim, got {given.engine!r}")
    return given.engine or kind.name


_OF_SIMULATOR = ("noise", "jobs", "backend")
_OF_SERVER = (
    *("server_args", "warmup", "drain_s", "send_lag_limit_ms", "restart", "model"),
    *("gpu_memory_utilization", "mem_fraction_static"),
)


def unread_options(given: RunnerOptions, kind: EngineKind) -> str:
    """Return a line that names the options which were stated and the chosen engine does not read, or ""."""
    names = _OF_SERVER if choose_engine(given, kind) == "sim" else _OF_SIMULATOR
    plain = {field.name: field.default for field in fields(given)}
    stated = [name for name in names if name in plain and getattr(given, name) != plain[name]]
    if not stated:
        return ""
    options = ", ".join(f"--{name.replace('_', '-')}" for name in stated)
    return f"not read by {choose_engine(given, kind)}: {options}"


def read_shard(given: RunnerOptions) -> Shard:
    """Return which share of the plan is run here.

    Raises:
        UsageError: the option makes no sense.
    """
    try:
        return Shard.parse(given.shard)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from error


def read_simulated(given: RunnerOptions, kind: EngineKind) -> SimConfig:
    """Return the simulated engine that the options describe.

    Raises:
        UsageError: options with which no engine could run.
    """
    try:
        return _with_chunks(kind.simulated(given), given)
    except (ValueError, TraceError) as error:
        raise UsageError(str(error)) from error


def make_sim_driver(given: RunnerOptions, kind: EngineKind) -> SimDriver:
    """Return the simulator that the options describe.

    Raises:
        UsageError: options with which no engine could run.
        DriverError: `--backend` needs a package that is not installed.
    """
    if not 0.0 <= given.noise <= 1.0:
        raise UsageError(f"--noise: expected a number from 0 to 1, got {given.noise}")
    unstated = frozenset(name for name in SESSION_DEFAULTS if getattr(given, name, None) is None)
    config = read_simulated(given, kind)
    engine = SimEngine(config, given.profile, given.noise, given.seed, unstated=unstated)
    if given.jobs is not None and given.jobs < 1:
        raise UsageError(f"--jobs: expected at least 1, got {given.jobs}")
    if given.backend not in BACKENDS:
        raise UsageError(f"--backend: expected one of {', '.join(BACKENDS)}, got {given.backend!r}")
    return SimDriver(engine, map_on_cores(given.jobs, cast("Backend", given.backend)))


def _saturation_rps(workload: str, given: RunnerOptions, config: SimConfig) -> float:
    """Return the throughput in requests per second when all requests of a workload wait from the start.

    Raises:
        ValueError: no such workload, or none of its requests fits.
        TraceError: a file that is not a trace.
    """
    number = max(_SATURATION_REQUESTS, _SATURATION_REQUESTS_A_SEQUENCE * config.max_num_seqs)
    made = make_requests(workload, number, _AT_ONCE_RPS, given.seed, _read_statements(given))
    requests = list(leave_out_unfit(made, config.usable_blocks, config.block_size)[0])
    if not requests:
        raise ValueError(f"no request of {workload!r} fits into {config.usable_blocks} blocks")
    return queued_throughput_rps(requests, config, load_profile(given.profile))


def _read_loads(
    given: RunnerOptions, kind: EngineKind, workload: str, workload_rates: Mapping[str, str]
) -> list[LoadPoint]:
    try:
        of_sessions = has_sessions(workload, _read_statements(given))
    except (ValueError, TraceError) as error:
        raise UsageError(f"--workloads: {error}") from error
    if not of_sessions:
        return [LoadPoint(workload, rate) for rate in _read_rates(given, kind, workload, workload_rates)]
    if given.concurrent_sessions is not None:
        numbers = _split(given.concurrent_sessions, "--concurrent-sessions")
        if not all(number.isdecimal() and int(number) >= 1 for number in numbers):
            raise UsageError(
                "--concurrent-sessions: expected whole numbers of at least 1, "
                f"got {given.concurrent_sessions!r}"
            )
        return [LoadPoint(workload, 0.0, int(number)) for number in numbers]
    if given.rates is None:
        raise UsageError(
            f"--workloads: {workload} holds sessions: state --concurrent-sessions, or with --rates how many "
            "start a second"
        )
    return [LoadPoint(workload, _read_rate(part, "--rates")) for part in _split(given.rates, "--rates")]


def _read_session_options(given: RunnerOptions) -> dict[str, Any]:
    if given.endpoint not in ("completions", "chat"):
        raise UsageError(f"--endpoint: expected completions or chat, got {given.endpoint!r}")
    if given.duration_s is not None and not 0.0 < given.duration_s < float("inf"):
        raise UsageError(f"--duration-s: expected seconds above 0, got {given.duration_s}")
    if not 0.0 <= given.session_stagger_s < float("inf"):
        raise UsageError(f"--session-stagger-s: expected seconds, at least 0, got {given.session_stagger_s}")
    return {
        "session_stagger_s": given.session_stagger_s,
        "duration_s": given.duration_s,
        "untold": given.untold,
        "endpoint": given.endpoint,
    }


def _read_rates(
    given: RunnerOptions, kind: EngineKind, workload: str, workload_rates: Mapping[str, str]
) -> tuple[float, ...]:
    own = workload_rates.get(dashed_name(workload))
    text, option = (own, f"--{dashed_name(workload)}-rates") if own is not None else (given.rates, "--rates")
    if text is not None:
        return tuple(_read_rate(part, option) for part in _split(text, option))
    if workload in DEFAULT_RATES and choose_engine(given, kind) != "sim":
        return DEFAULT_RATES[workload]
    try:
        most_rps = _saturation_rps(workload, given, kind.simulated(given))
    except (ValueError, TraceError) as error:
        raise UsageError(f"--workloads: {error}") from error
    return tuple(float(f"{share * most_rps:.2g}") for share in LOAD_SHARES)


def _read_rate(text: str, option: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise UsageError(f"{option}: expected requests a second above 0, got {text!r}")
    return rate


def _split(text: str, option: str) -> list[str]:
    try:
        return split_list(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
