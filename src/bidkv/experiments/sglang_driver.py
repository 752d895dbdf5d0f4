"""The driver of experiments on a real SGLang server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bidkv.adapters.server_setup import LaunchError
from bidkv.adapters.sglang.server import make_server_setup, read_server_info
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import DriverError, EngineFacts
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_driver import ServerDriver
from bidkv.experiments.server_launch import choose_model, make_server_driver, server_arguments
from bidkv.observability.prometheus_page import get_text


def make_sglang_driver(
    given: RunnerOptions, options: Mapping[str, Any], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's options; `options` are the engine's own.

    Raises:
        DriverError: SGLang is not installed.
    """
    try:
        setup = make_server_setup()
    except LaunchError as error:
        raise DriverError(str(error)) from error
    options, environment = choose_model(options, setup, logs.parent, say)
    arguments = [*server_arguments(options, "--model-path", say), *setup.arguments]
    for note in setup.notes:
        say(note)
    facts = partial(_read_facts, installed=setup.installed)
    return make_server_driver(given, "sglang", options["model"], arguments, environment, facts, logs, say)


def _read_facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server for its facts."""
    if not reading.count("hooks_in_place"):
        raise DriverError("the hooks into SGLang are not in place; its log says why")
    model, page_size, longest = read_server_info(get_text(f"{url}/server_info"))
    pages = reading.count("total_blocks")
    notes = {
        "engine": installed,
        "model": model,
        "usable_blocks": pages,
        "block_size": page_size,
        "max_model_len": longest,
    }
    return EngineFacts(pages, page_size, longest, notes)
