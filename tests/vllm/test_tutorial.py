"""docs/guide/tutorial.md, run as it is printed: every `bash` block in order, in one shell.

A tiny model stands in for the large one: a `vllm` command that knows what a CPU needs, a `pip` that only
checks what it was asked for, and ports nobody else uses.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine_model import write_model

from bidkv.experiments.server_process import find_free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CPU_FLAGS = "--block-size 32 --enforce-eager --dtype float32 --gpu-memory-utilization 0.1"


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes, so that the model takes text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every id the model can emit is a token, so that its answers can be read.
    words = {**{letter: i for i, letter in enumerate(alphabet)}, **{f"<{i}>": i for i in range(256, 1000)}}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))


def number(text: str) -> int:
    return int(text.replace(",", ""))


def write_command(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Commands that go before the real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = shlex.quote(sys.executable)
    write_command(folder / "pip", 'test "$*" = "install .[cli,metrics]"')
    # Blocks of the CPU's attention hold 32 tokens, a GPU's 16: half as many are as much memory.
    write_command(
        folder / "vllm",
        'test "$1" = serve; model=$2; shift 2\n'
        'args=(); for word in "$@"; do if test "$word" = 400; then word=200; fi; args+=("$word"); done\n'
        f'exec {python} -m bidkv.experiments.vllm.serve --model "$model" {CPU_FLAGS} "${{args[@]}}"',
    )
    (folder / "python").symlink_to(sys.executable)
    write_command(folder / "bidkv", f'exec {python} -m bidkv.cli "$@"')
    return folder


def test_the_tutorial_runs_as_printed(tmp_path: Path, stand_ins: Path) -> None:
    page = (ROOT / "docs/guide/tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    script = "".join(f"echo '=== block {number}'\n{block}" for number, block in enumerate(blocks, 1))
    model = write_model(tmp_path / "model")
    write_tokenizer(model)
    for printed, ours in (
        ("meta-llama/Llama-3.1-8B-Instruct", str(model)),
        (":8000", f":{(port := find_free_port())}"),
        ("--port 8000", f"--port {port}"),
        ("9400", str(find_free_port())),
    ):
        assert printed in script
        script = script.replace(printed, ours)
    work = tmp_path / "work"
    work.mkdir()
    # However it ends, the server it started does not outlive it.
    stop = 'test -f run/server.pid && kill "$(cat run/server.pid)" 2>/dev/null || :'
    guard = f"set -euo pipefail\ntrap {shlex.quote(stop)} EXIT\n"
    done = subprocess.run(
        ["bash", "-c", guard + script],
        cwd=work,
        env={**os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    log = work / "run/server.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-4000:] if log.exists() else "")
    said = dict(enumerate(re.split(r"=== block \d+\n", done.stdout)))
    assert said[1].startswith("bidkv ")
    assert "fair" in said[2]
    assert "Would be active: fair in vllm" in said[3]
    assert "fair is in charge" in said[6]
    assert re.match(r"[1-9]\d* preemptions of ", said[7])
    assert "was preempted" in said[8]
    assert (
        "fair preempts the most recently admitted among those within 1.5x of the fewest computed" in said[8]
    )
    rows = {row.split()[0]: row.split() for row in said[9].splitlines() if row.split()}
    # What it would have to compute again: less than by vLLM's own order, which is the point of it all.
    assert number(rows["logged"][3]) < number(rows["preempt-evict"][3])
    assert number(rows["logged"][3]) < number(rows["largest-first"][3])
    assert "kill switch" in said[10]
    assert "fair is in charge" in said[11]
    # A tiny model computes a prompt in no time, so keeping it pays little here: only what happens is checked.
    assert re.findall(r"(\d+) turns, [\d.]+ s each; \d+% of the prompts were cached", said[13]) == [
        "200",
        "200",
    ]
    assert re.search(r"found by prefix \(0 told, [1-9]\d* found\)", said[13])
    assert "sessions is in charge" in said[13]
    assert re.search(r"[1-9]\d* drops of idle sessions", said[13])
    assert json.loads((work / "run/timeline.json").read_text())["traceEvents"]
    answer = json.loads((work / "run/answer-32.json").read_text())
    assert answer["usage"]["completion_tokens"] == 400
