"""`bidkv experiment`: strategies compared on an engine, in alternating order, a verdict for each cell."""

from __future__ import annotations

import typer

from bidkv.cli.errors import fail

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The words go to the engine's own runner, which needs no command-line package beside the engine."""


def command(context: typer.Context) -> None:
    """Compare strategies on real vLLM, real SGLang or the simulator, with a verdict for each cell.

    Options are those of the engine's own runner (python -m bidkv.experiments.vllm.runner).

    \b
    Examples:
      bidkv experiment -- --help
      bidkv experiment --engine sim --strategies preempt-evict,lcf --output-dir results/sim
      bidkv experiment --engine vllm --model DIR --strategies preempt-evict,lcf --output-dir results/vllm
    """
    from bidkv.experiments.sglang.runner import main as sglang
    from bidkv.experiments.vllm.runner import main as vllm

    words = list(context.args)
    joined = " ".join(words).replace("=", " ").split()
    engine = joined[joined.index("--engine") + 1] if "--engine" in joined[:-1] else "vllm"
    if engine not in ("vllm", "sglang", "sim"):
        fail(f"--engine: expected vllm, sglang or sim, got {engine!r}")
    raise typer.Exit((sglang if engine == "sglang" else vllm)(words))
