"""From the words of a runner's command line to what they ask for: a plan, and the simulator's driver."""

from __future__ import annotations

import argparse

from bidkv.experiments.options import DEFAULT_RATES, EngineKind, dashed_name
from bidkv.experiments.parallel import on_cores
from bidkv.experiments.plan import Load, Plan, Shard, labels_of
from bidkv.experiments.saturation_rate import FRACTIONS, saturation_rps
from bidkv.experiments.simulated_driver import SimDriver, SimEngine
from bidkv.policy import PolicySpecError, resolve
from bidkv.profiles import DEFAULT_PROFILE, ProfileError, load_profile
from bidkv.workloads.resolver import require_workload
from bidkv.workloads.traces import TraceError


class UsageError(Exception):
    """The words make no sense together; the message says which and what was expected."""


def plan_of(given: argparse.Namespace, kind: EngineKind) -> Plan:
    """Return what the words ask for.

    Raises:
        UsageError: they make no sense; the message names the option.
    """
    strategies = _words(given.strategies, "--strategies")
    for name in strategies:
        try:
            resolve(name)
        except PolicySpecError as error:
            raise UsageError(f"--strategies: {error}") from error
    loads = [
        Load(workload, rate)
        for workload in _words(given.workloads, "--workloads")
        for rate in _rates(given, kind, workload)
    ]
    options = {o.name: value for o in kind.options if (value := getattr(given, o.name)) is not None}
    if given.engine == "sim":
        options |= {"scheduler": kind.name, "profile": given.profile, "noise": given.noise}
    else:
        options |= {"server_args": given.server_args, "warmup": given.warmup, "restart": given.restart}
    try:
        return Plan(
            engine=given.engine,
            strategies=labels_of(strategies),
            loads=tuple(dict.fromkeys(loads)),
            runs=given.runs,
            requests=given.requests,
            seed=given.seed,
            options=options,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def shard_of(given: argparse.Namespace) -> Shard:
    """Return which share of the plan is run here.

    Raises:
        UsageError: it makes no sense; the message names the option.
    """
    try:
        return Shard.parse(given.shard)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from error


def sim_driver(given: argparse.Namespace, kind: EngineKind) -> SimDriver:
    """Return the simulator the words describe.

    Raises:
        UsageError: options no engine could run with.
        DriverError: `--backend` needs a package that is not there.
    """
    try:
        load_profile(given.profile)
        if given.noise < 0.0:
            raise ValueError(f"noise must be at least 0, got {given.noise}")
        engine = SimEngine(kind.simulated(given), given.profile, given.noise, given.seed)
    except (ValueError, ProfileError) as error:
        raise UsageError(str(error)) from error
    if given.jobs is not None and given.jobs < 1:
        raise UsageError(f"--jobs: expected at least 1, got {given.jobs}")
    return SimDriver(engine, on_cores(given.jobs, given.backend))


def _rates(given: argparse.Namespace, kind: EngineKind, workload: str) -> tuple[float, ...]:
    own = getattr(given, f"rates:{dashed_name(workload)}", None)
    try:
        require_workload(workload)
    except ValueError as error:
        raise UsageError(f"--workloads: {error}") from error
    text, option = (own, f"--{dashed_name(workload)}-rates") if own is not None else (given.rates, "--rates")
    if text is not None:
        return tuple(_rate(word, option) for word in _words(text, option))
    if workload in DEFAULT_RATES:
        return DEFAULT_RATES[workload]
    try:
        most = saturation_rps(workload, given.seed, kind.simulated(given), load_profile(DEFAULT_PROFILE))
    except (ValueError, TraceError) as error:
        raise UsageError(f"--workloads: {error}") from error
    return tuple(float(f"{fraction * most:.2g}") for fraction in FRACTIONS)


def _rate(word: str, option: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise UsageError(f"{option}: expected requests a second above 0, got {word!r}")
    return rate


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option}: expected at least one, got {text!r}")
    return words
