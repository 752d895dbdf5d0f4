"""`bidkv experiment`: strategies compared on an engine, in alternating order, with verdicts."""

from __future__ import annotations

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.command_line.config_file import find_config, read_config

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""All arguments, `--help` too, go to the engine's own runner, which needs no command-line package."""

_ENGINES = ("vllm", "sglang", "sim")


def _engine_of_file(arguments: list[str]) -> str | None:
    """Return the engine that the file of `--config` states."""
    file = find_config(arguments)
    if file is None:
        return None
    with bad_input("--config"):
        engine = read_config(file, "experiment").get("engine")
    return None if engine is None else str(engine.value)


def command(context: typer.Context) -> None:
    """Compare strategies on real vLLM, real SGLang or the simulator, with a verdict for each cell.

    The options are those of the engine's own runner (python -m bidkv.experiments.vllm.runner), listed below.

    \b
    Examples:
      bidkv experiment --help
      bidkv experiment --engine sim --strategies preempt-evict,lcf --output-dir results/sim
      bidkv experiment --engine vllm --model DIR --strategies preempt-evict,lcf --output-dir results/vllm
    """
    from bidkv.experiments.sglang.runner import main as sglang
    from bidkv.experiments.vllm.runner import main as vllm

    arguments = [argument for argument in context.args if argument != "--"] or ["--help"]
    if "--help" in arguments or "-h" in arguments:
        typer.echo(context.get_help() + "\n")
    joined = " ".join(arguments).replace("=", " ").split()
    stated = joined[joined.index("--engine") + 1] if "--engine" in joined[:-1] else None
    engine = stated or _engine_of_file(arguments) or "vllm"
    if engine not in _ENGINES:
        fail(f"--engine: expected vllm, sglang or sim, got {engine!r}")
    main = sglang if engine == "sglang" else vllm
    raise typer.Exit(main(arguments, prog="bidkv experiment"))
