"""The engine of programs for a GPU host: what starting one leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os, sys, types

vllm = types.ModuleType("vllm")
vllm.EngineArgs = dict
vllm.LLMEngine = types.SimpleNamespace(from_engine_args=lambda given: given)
sys.modules["vllm"] = vllm
from bidkv.gpu_host.engine import build_engine

model = build_engine("llama-3.1-8b", 8, 512, {})["model"]
print(model, *os.listdir(model))
"""


def test_the_folder_of_a_packaged_shape_is_gone_when_the_program_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    folder, name = done.stdout.split()
    assert Path(folder).parent == tmp_path
    assert name == "config.json"
    assert list(tmp_path.iterdir()) == []
