"""The driver of experiments on a real vLLM server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bidkv.adapters.server_setup import LaunchError
from bidkv.adapters.vllm.server import make_server_setup, read_block_size, read_model
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import DriverError, EngineFacts
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_driver import ServerDriver
from bidkv.experiments.server_launch import choose_model, make_server_driver, server_arguments
from bidkv.experiments.session_load import has_sessions
from bidkv.observability.prometheus_page import get_text
from bidkv.workloads.traces import TraceOptions


def make_vllm_driver(
    given: RunnerOptions, options: Mapping[str, Any], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's options; `options` are the engine's own.

    Raises:
        DriverError: vLLM is not installed, or cannot run with the options.
    """
    try:
        setup = make_server_setup(options.get("block_size"))
    except LaunchError as error:
        raise DriverError(str(error)) from error
    options, environment = choose_model(options, setup, logs.parent, say)
    arguments = [*server_arguments(options, "--model", say), *setup.arguments]
    stated = TraceOptions.from_statements(given.statements())
    if any(has_sessions(workload.strip(), stated) for workload in given.workloads.split(",")):
        # So that every answer says how much of its prompt was cached.
        arguments.append("--enable-prompt-tokens-details")
    for note in setup.notes:
        say(note)
    facts = partial(_read_facts, installed=setup.installed)
    return make_server_driver(given, "vllm", options["model"], arguments, environment, facts, logs, say)


def _read_facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server for its block size (its metrics) and its longest request (its list of models)."""
    try:
        block_size = read_block_size(get_text(f"{url}/metrics"))
    except LaunchError as error:
        raise DriverError(str(error)) from error
    model, longest = read_model(get_text(f"{url}/v1/models"))
    blocks = reading.count("total_blocks")
    if not blocks:
        raise DriverError("the server does not say its number of blocks")
    notes = {
        "engine": installed,
        "model": model,
        "usable_blocks": blocks,
        "block_size": block_size,
        "max_model_len": longest,
    }
    return EngineFacts(blocks, block_size, longest, notes)
