"""Record a step log on a real vLLM engine, for `bidkv.calibration`.

Runs on the machine with the GPU, with nothing but vLLM and this package there::

    python -m bidkv.gpu_host.calibration_run --out steps.csv --time-limit-s 500

One engine, stepped by hand in this process, is led through the batches of
:mod:`bidkv.gpu_host.calibration_grid`; the token budget of a step is lowered on the live scheduler,
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
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bidkv.calibration.step_columns import RECORDED_COLUMNS
from bidkv.gpu_host.calibration_grid import Cell, Injection, full_grid, small_grid
from bidkv.gpu_host.calibration_recorder import OutOfTime, Recorder
from bidkv.gpu_host.engine import build_engine, describe_engine

_MEMORY_SHARE = 0.95  # of the KV cache that a cell may fill, so that nothing is ever preempted


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
        prog="python -m bidkv.gpu_host.calibration_run",
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
