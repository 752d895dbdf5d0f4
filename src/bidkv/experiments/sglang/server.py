"""How a real SGLang server is started for an experiment, and what a CPU needs for it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bidkv.experiments.runner.driver import DriverError, EngineFacts
from bidkv.experiments.runner.managed import ServerSpec
from bidkv.experiments.runner.model import has_tokenizer, vocabulary_of
from bidkv.experiments.runner.options import EngineOption
from bidkv.experiments.runner.scrape import Reading, get_text
from bidkv.experiments.runner.server import LoadSettings, ServerDriver

RESERVED_NEW_TOKENS = 4
"""Output tokens for which SGLang reserves memory at a request's admission, in experiments.

It reserves the whole stated length otherwise, experiments state exact lengths, and nothing would ever be
retracted.
"""

_CPU_WORDS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
    "--dtype", "float32", "--disable-cuda-graph", "--grammar-backend", "none",
)  # fmt: skip
_CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}


def sglang_driver(
    given: argparse.Namespace, options: Sequence[EngineOption], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's command line.

    Raises:
        DriverError: SGLang is not installed.
    """
    try:
        installed = f"sglang {version('sglang')}"
    except PackageNotFoundError:
        raise DriverError(
            f"SGLang is not installed beside {sys.executable}: run this with the Python that has it, or with "
            "--engine sim"
        ) from None
    words = ["--model-path", given.model]
    for option in options:
        value = getattr(given, option.name)
        if option.flag != "--model" and value is not None:
            words += [option.flag, str(value)]
    environment = {
        "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": str(RESERVED_NEW_TOKENS),
    }
    if not has_tokenizer(given.model):
        say(f"{given.model} has no tokenizer: started with --skip-tokenizer-init")
        words.append("--skip-tokenizer-init")
    if find_spec("sgl_kernel") is None:
        # The GPU's kernels are a package of their own; where it is missing only a CPU is left.
        words += _CPU_WORDS
        environment |= _CPU_ENVIRONMENT
        say(f"{installed} without GPU kernels: {' '.join(_CPU_WORDS)}, one thread for each operator")
    command = [
        sys.executable,
        "-m",
        "bidkv.experiments.sglang.serve",
        *words,
        *shlex.split(given.server_args),
    ]
    spec = ServerSpec(
        engine="sglang",
        command=command,
        dialect="sglang",
        model=given.model,
        vocabulary=vocabulary_of(given.model),
        facts=lambda url, reading: _facts(url, reading, installed),
        environment=environment,
    )
    settings = LoadSettings(given.warmup, given.drain_s, given.send_lag_limit_ms, given.restart)
    return ServerDriver(spec, logs, settings, say)


def _facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server what it is."""
    if not reading.count("hooks_in_place"):
        raise DriverError("the hooks into SGLang are not in place; its log says why")
    info = json.loads(get_text(f"{url}/server_info"))
    pages, page_size = reading.count("total_blocks"), int(info["page_size"])
    most = info.get("max_req_input_len") or info.get("context_length")
    notes = {
        "engine": installed,
        "model": info.get("model_path"),
        "usable_blocks": pages,
        "block_size": page_size,
        "max_model_len": most,
    }
    return EngineFacts(pages, page_size, most, notes)
