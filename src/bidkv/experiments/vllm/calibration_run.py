"""Record a step log on a real vLLM engine, for `bidkv.experiments.calibrate`.

Runs on the machine with the GPU, with nothing but vLLM and this package there::

    python -m bidkv.experiments.vllm.calibration_run --out steps.csv --time-limit-s 500

One engine, stepped by hand in this process, is led through the batches of
:mod:`bidkv.experiments.vllm.calibration_grid`; the token budget of a step is lowered on the live scheduler,
so that all chunk sizes share one start. A cell's rows are written when it is complete: run the same command
again and it goes on where it stopped. Beside the log, ``*.meta.json`` says what was recorded on.

Scheduling is synchronous: with asynchronous scheduling a step's duration is not that of its own batch.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from bidkv.experiments.step_columns import RECORDED_COLUMNS
from bidkv.experiments.vllm.calibration_grid import STEPS_PER_STAIR, Cell, Injection, full_grid, small_grid

Row = dict[str, float]

_MEMORY_SHARE = 0.95  # of the KV cache that a cell may fill, so that nothing is ever preempted


class OutOfTime(Exception):
    """The time limit passed; the cell under way is dropped."""


class Recorder:
    """One engine, and the batch of its latest step.

    Args:
        engine: a vLLM ``LLMEngine`` whose core lives in this process.
        clock: seconds, monotonic.
        deadline_s: on that clock; no step starts after it.
        seed: of prompt tokens and lengths.
    """

    def __init__(self, engine: Any, clock: Callable[[], float], deadline_s: float, seed: int) -> None:
        self.engine = engine
        self.scheduler = engine.engine_core.engine_core.scheduler
        self._clock = clock
        self._deadline_s = deadline_s
        self._random = Random(seed)
        self._serial = 0
        self._batch: Row = {}
        self._looking_s = 0.0
        self._vocabulary = engine.vllm_config.model_config.get_vocab_size()
        self._schedule = self.scheduler.schedule
        self.scheduler.schedule = self._watched_schedule

    @property
    def capacity_tokens(self) -> int:
        """Tokens the KV cache holds, the null block left out."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return int((pool.num_gpu_blocks - 1) * self.engine.vllm_config.cache_config.block_size)

    def record(self, cell: Cell) -> list[Row]:
        """Lead the engine through `cell`; returns its steps.

        Raises:
            OutOfTime: the deadline passed; the engine is idle again all the same.
        """
        self.scheduler.max_num_scheduled_tokens = cell.chunk
        rows: list[Row] = []
        live: set[str] = set()
        try:
            self._decoders(cell, live)
            self._step_until(rows, live, lambda: not self._batch["prefill"] and not self._batch["waiting"])
            if not cell.injections:
                self._step_until(rows, live, lambda: False)
            for injection in cell.injections:
                live.update(self._add(injection.prompt_tokens, 1) for _ in range(injection.prompts))
                self._step_until(rows, live, lambda: len(live) == cell.requests)
                self._step_until(rows, live, lambda: True)  # a pure decode step between two mixed ones
        finally:
            if live:
                self.engine.abort_request(sorted(live))
        place = {"cell": cell.number, "conc": cell.requests, "plen": cell.prompt_tokens, "chunk": cell.chunk}
        return [place | row for row in rows]

    def _decoders(self, cell: Cell, live: set[str]) -> None:
        spread = cell.prompt_tokens // 8
        for index in range(cell.requests):
            length = cell.prompt_tokens + self._random.randint(-spread, spread)
            outputs = cell.output_tokens
            if not cell.injections:  # a staircase: one request finishes every few steps
                outputs -= STEPS_PER_STAIR * index
            live.add(self._add(length, outputs))

    def _add(self, prompt_tokens: int, output_tokens: int) -> str:
        from vllm import SamplingParams

        self._serial += 1
        name = f"calibration-{self._serial}"
        tokens = self._random.choices(range(self._vocabulary), k=prompt_tokens)
        parameters = SamplingParams(
            max_tokens=output_tokens, ignore_eos=True, temperature=0.0, detokenize=False
        )
        self.engine.add_request(name, {"prompt_token_ids": tokens}, parameters)
        return name

    def _step_until(self, rows: list[Row], live: set[str], done: Callable[[], bool]) -> None:
        """Step, at least once, until `done` or nothing lives."""
        while live:
            if self._clock() >= self._deadline_s:
                raise OutOfTime
            self._batch, self._looking_s = {}, 0.0
            started = self._clock()
            outputs = self.engine.step()
            took_s = self._clock() - started - self._looking_s
            live -= {output.request_id for output in outputs if output.finished}
            if not self._batch:  # the engine had nothing to schedule
                break
            rows.append({"step_s": took_s, **self._batch})
            if done():
                break

    def _watched_schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = self._schedule(*args, **kwargs)
        started = self._clock()
        self._batch = self._described(output.num_scheduled_tokens)
        self._looking_s += self._clock() - started
        return output

    def _described(self, scheduled: dict[str, int]) -> Row:
        prefill = decode = context = prefills = 0
        attention = 0.0
        for request_id, tokens in scheduled.items():
            request = self.scheduler.requests[request_id]
            computed = request.num_computed_tokens  # already advanced over this step's tokens
            before = computed - tokens
            context += computed
            if tokens == 1 and request.num_output_tokens and computed == request.num_tokens:
                decode += 1
            else:
                prefill += tokens
                prefills += 1
                attention += tokens * (before + tokens / 2)
        return {
            "tokens": prefill + decode,
            "prefill": prefill,
            "decode": decode,
            "context": context,
            "prefill_attention": attention,
            "num_prefills": prefills,
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.waiting),
            "free_blocks": self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
        }


def build_engine(
    model: str, max_num_seqs: int, max_num_batched_tokens: int, overrides: dict[str, Any]
) -> Any:
    """Start a vLLM engine in this process, with random weights.

    Args:
        model: a directory with a config.json, or a packaged shape such as ``llama-3.1-8b``.
        max_num_seqs: most requests at once; also decides which CUDA graphs are captured.
        max_num_batched_tokens: largest token budget of a step.
        overrides: further fields of vLLM's ``EngineArgs``.
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
    """What a recording was made on, as JSON values."""
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


def warm_up(chunk: int) -> Cell:
    """A cell that touches every way of launching once, before anything is timed."""
    return Cell(-1, 4, 40, chunk, (Injection(2, 20), Injection(1, 2 * chunk)))


def unfit(cell: Cell, recorder: Recorder) -> str:
    """Why this engine cannot run `cell`; empty when it can."""
    scheduler, model = recorder.engine.vllm_config.scheduler_config, recorder.engine.vllm_config.model_config
    injected = max((i.prompts for i in cell.injections), default=0)
    if cell.requests + injected > scheduler.max_num_seqs:
        return f"needs {cell.requests + injected} sequences, the engine runs {scheduler.max_num_seqs}"
    if cell.longest_request >= model.max_model_len:
        return f"needs {cell.longest_request} tokens a request, the limit is {model.max_model_len}"
    if cell.peak_tokens > _MEMORY_SHARE * recorder.capacity_tokens:
        return f"needs {cell.peak_tokens} tokens of KV cache, the engine has {recorder.capacity_tokens}"
    return ""


def recorded_cells(path: Path) -> set[int]:
    """Numbers of the cells that the log at `path` already holds.

    Raises:
        ValueError: the file is not a log of this recorder.
    """
    if not path.exists() or not path.stat().st_size:
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != RECORDED_COLUMNS:
            raise ValueError(f"{path}, line 1: expected the columns {','.join(RECORDED_COLUMNS)}")
        return {int(float(row["cell"])) for row in reader}


def record_grid(recorder: Recorder, cells: Sequence[Cell], path: Path, say: Callable[[str], None]) -> int:
    """Record what `path` does not hold yet, until done or out of time; returns the cells still missing."""
    done = recorded_cells(path)
    todo = [cell for cell in cells if cell.number not in done]
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RECORDED_COLUMNS)
        if not file.tell():
            writer.writeheader()
        for position, cell in enumerate(todo):
            reason = unfit(cell, recorder)
            if reason:
                say(f"cell {cell.number} left out: {reason}")
                continue
            try:
                rows = recorder.record(cell)
            except OutOfTime:
                return len(todo) - position
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
            busy_s = sum(row["step_s"] for row in rows)
            say(f"cell {cell.number} ({position + 1}/{len(todo)}): {len(rows)} steps in {busy_s:.1f} s")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m bidkv.experiments.vllm.calibration_run",
        description="Record a step log on a real vLLM engine.",
    )
    add = arguments.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="step log (CSV) to write, or to go on with")
    add(
        "--model",
        default="llama-3.1-8b",
        metavar="DIR|SHAPE",
        help="directory with a config.json, or a shape",
    )
    add("--chunks", default="2048,512", metavar="N[,N...]", help="token budgets of a step (%(default)s)")
    add("--max-num-seqs", type=int, default=256, metavar="N", help="most requests at once (%(default)s)")
    add("--passes", type=int, default=2, metavar="N", help="how often the grid is recorded (%(default)s)")
    add("--grid", choices=("full", "small"), default="full", help="small tries the recorder (%(default)s)")
    add("--seed", type=int, default=0, help="of prompts and of the order of the grid (%(default)s)")
    add(
        "--time-limit-s", type=float, default=540.0, metavar="S", help="engine's start included (%(default)s)"
    )
    add("--engine-args", type=json.loads, default={}, metavar="JSON", help="more fields of vLLM's EngineArgs")
    return arguments


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    started = time.perf_counter()
    args = parser().parse_args(argv)
    try:
        chunks = tuple(int(chunk) for chunk in args.chunks.split(","))
        recorded_cells(args.out)
        engine = build_engine(args.model, args.max_num_seqs, max(chunks), args.engine_args)
    except ValueError as error:
        _say(f"calibration_run: error: {error}")
        return 2
    recorder = Recorder(engine, time.perf_counter, started + args.time_limit_s, args.seed)
    args.out.with_suffix(".meta.json").write_text(json.dumps(describe_engine(engine), indent=2) + "\n")
    ready_s = time.perf_counter() - started
    _say(f"engine ready after {ready_s:.0f} s, {recorder.capacity_tokens} tokens of KV cache")
    cells = {"full": full_grid, "small": small_grid}[args.grid](chunks, args.passes, args.seed)
    try:
        for chunk in chunks:
            recorder.record(warm_up(chunk))
    except OutOfTime:
        missing = len(cells)
    else:
        missing = record_grid(recorder, cells, args.out, _say)
    _say(f"{missing} cells missing: run the same command again" if missing else "complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
