"""From a runner's options to a real server's command line: what both engines have in common."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bidkv.adapters.server_setup import ServerSetup
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import EngineFacts
from bidkv.experiments.managed_server import ServerSpec
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_driver import LoadSettings, ServerDriver
from bidkv.experiments.server_process import LOOPBACK

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
"""Files of which a model's folder holds at least one when it has a tokenizer."""

DEFAULT_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
"""The model of an experiment on a GPU that names none: the one of the packaged step-time profiles."""

_UNKNOWN_VOCABULARY = 30_000
"""Upper bound of token ids where a model does not state its vocabulary: every common model has more."""


def choose_model(
    options: Mapping[str, Any], setup: ServerSetup, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the engine's options with a model, and the environment that its server needs.

    Where no model is named, an engine on a CPU serves a tiny random one, which is written into the
    experiment's folder, and an engine on a GPU :data:`DEFAULT_MODEL` out of the local cache. Nothing is
    fetched.

    Args:
        options: the engine's own by their name in Python.
        setup: how it is started here.
        folder: the experiment's.
        say: takes one line at a time.
    """
    environment = dict(setup.environment)
    if "model" in options:
        return dict(options), environment
    if not setup.on_cpu:
        say(f"--model: none is named: {DEFAULT_MODEL} out of the local cache; nothing is fetched")
        return {**options, "model": DEFAULT_MODEL}, environment | {"HF_HUB_OFFLINE": "1"}
    from bidkv.experiments.tiny_model import write_model

    model = folder / "tiny-model"
    if not (model / "model.safetensors").exists():
        write_model(model)
    say(f"--model: none is named: a tiny random model with 2 layers, written to {model}")
    return {**options, "model": str(model)}, environment


def server_arguments(options: Mapping[str, Any], model_flag: str, say: Callable[[str], None]) -> list[str]:
    """Return the engine's own arguments: its model, and every option that was given.

    Args:
        options: the engine's options by their name in Python, "model" among them.
        model_flag: how the engine spells that one.
        say: takes one line at a time.
    """
    model = options["model"]
    arguments = [model_flag, model]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if type(value) is bool:
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "model":
            arguments += [f"--{flag}", str(value)]
    if not has_tokenizer(model):
        say(f"{model} has no tokenizer: started with --skip-tokenizer-init")
        arguments.append("--skip-tokenizer-init")
    return arguments


def make_server_driver(
    given: RunnerOptions,
    engine: Literal["vllm", "sglang"],
    model: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    facts: Callable[[str, Reading], EngineFacts],
    logs: Path,
    say: Callable[[str], None],
) -> ServerDriver:
    """Return the driver that starts `engine` with `arguments`, and `--server-args` behind them."""
    module = f"bidkv.experiments.{engine}.serve"
    spec = ServerSpec(
        engine=engine,
        # vLLM listens on every interface unless told otherwise.
        command=[
            *(sys.executable, "-m", module, "--host", LOOPBACK),
            *(*arguments, *shlex.split(given.server_args)),
        ],
        dialect=engine,
        model=model,
        vocabulary=read_vocabulary(model),
        facts=facts,
        environment=environment,
    )
    settings = LoadSettings(given.warmup, given.drain_s, given.send_lag_limit_ms, given.restart)
    return ServerDriver(spec, logs, settings, say)


def has_tokenizer(model: str) -> bool:
    """Return whether a model brings a tokenizer; a model that is only a name is assumed to."""
    folder = Path(model)
    return not folder.is_dir() or any((folder / name).exists() for name in _TOKENIZERS)


def read_vocabulary(model: str) -> int:
    """Return the bound below which token ids are safe, by the model's config.json.

    Raises:
        ValueError: config.json is there but makes no sense.
    """
    config = Path(model) / "config.json"
    if not config.is_file():
        return _UNKNOWN_VOCABULARY
    try:
        content = json.loads(config.read_bytes())
        stated = content.get("vocab_size") or content.get("text_config", {}).get("vocab_size")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{config}: expected a JSON object with vocab_size ({error!r:.80})") from error
    if stated is None:
        return _UNKNOWN_VOCABULARY
    if type(stated) is not int or stated < 1:
        raise ValueError(f"{config}: vocab_size must be an integer >= 1, got {stated!r:.60}")
    return stated
