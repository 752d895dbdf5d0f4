"""From a runner's command line to a server's: what both engines do alike."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from bidkv.experiments.driver import EngineFacts
from bidkv.experiments.managed_server import ServerSpec
from bidkv.experiments.options import EngineOption
from bidkv.experiments.scrape import Reading
from bidkv.experiments.server_driver import LoadSettings, ServerDriver
from bidkv.experiments.server_model import has_tokenizer, vocabulary_of


def server_words(
    given: argparse.Namespace, options: Sequence[EngineOption], model_flag: str, say: Callable[[str], None]
) -> list[str]:
    """Return the engine's own words: its model and every option that was given."""
    words = [model_flag, given.model]
    for option in options:
        value = getattr(given, option.name)
        if option.flag != "--model" and value is not None:
            words += [option.flag, str(value)]
    if not has_tokenizer(given.model):
        say(f"{given.model} has no tokenizer: started with --skip-tokenizer-init")
        words.append("--skip-tokenizer-init")
    return words


def server_driver(
    given: argparse.Namespace,
    engine: Literal["vllm", "sglang"],
    words: Sequence[str],
    environment: Mapping[str, str],
    facts: Callable[[str, Reading], EngineFacts],
    logs: Path,
    say: Callable[[str], None],
) -> ServerDriver:
    """Return the driver that starts `engine` with `words`, and `--server-args` behind them."""
    module = f"bidkv.experiments.{engine}.serve"
    spec = ServerSpec(
        engine=engine,
        command=[sys.executable, "-m", module, *words, *shlex.split(given.server_args)],
        dialect=engine,
        model=given.model,
        vocabulary=vocabulary_of(given.model),
        facts=facts,
        environment=environment,
    )
    settings = LoadSettings(given.warmup, given.drain_s, given.send_lag_limit_ms, given.restart)
    return ServerDriver(spec, logs, settings, say)
