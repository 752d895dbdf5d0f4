"""A vLLM engine in this process, with random weights, which calibration and replays step by hand."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

DEFAULT_SHAPE = "llama-3.1-8b"
"""The packaged model shape that recordings are made with."""


def build_engine(
    model: str, max_num_seqs: int, max_num_batched_tokens: int, overrides: dict[str, Any]
) -> Any:
    """Start a vLLM engine in this process, with random weights.

    Args:
        model: a directory with a config.json, or a packaged shape such as ``llama-3.1-8b``.
        max_num_seqs: most requests at once; also decides which CUDA graphs are captured.
        max_num_batched_tokens: largest token budget of a step.
        overrides: further fields of vLLM's ``EngineArgs``.

    Raises:
        ValueError: no such directory or shape.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import EngineArgs, LLMEngine

    if not Path(model).is_dir():
        shape = resources.files("bidkv.profiles").joinpath("shapes", f"{model}.json")
        if not shape.is_file():
            raise ValueError(f"--model {model}: neither a directory nor a packaged shape")
        directory = Path(tempfile.mkdtemp(prefix="bidkv-model-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        (directory / "config.json").write_text(shape.read_text(encoding="utf-8"), encoding="utf-8")
        model = str(directory)
    settings: dict[str, Any] = {
        "model": model,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "max_model_len": 32_768,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "disable_log_stats": True,
    }
    return LLMEngine.from_engine_args(EngineArgs(**(settings | overrides)))


def describe_engine(engine: Any) -> dict[str, Any]:
    """Return what a recording was made on, as JSON values."""
    import torch

    import vllm

    config = engine.vllm_config
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "gpu": gpu,
        "dtype": str(config.model_config.dtype),
        "block_size": config.cache_config.block_size,
        "num_gpu_blocks": engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool.num_gpu_blocks,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "max_model_len": config.model_config.max_model_len,
        "graph_max_tokens": config.compilation_config.max_cudagraph_capture_size or 0,
        "cudagraph_mode": str(config.compilation_config.cudagraph_mode),
    }
