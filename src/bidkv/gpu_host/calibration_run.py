"""Record a step log on a real vLLM engine, for `bidkv.calibration`.

Runs on a machine with a GPU that has vLLM and this package::

    python -m bidkv.gpu_host.calibration_run --out steps.csv --time-limit-s 500

One engine, stepped by hand in this process, runs the batches of :mod:`bidkv.gpu_host.calibration_grid`. A
step's token budget is lowered on the live scheduler, so that all chunk sizes share one start. A cell's rows
are written when it is complete; the same command continues an interrupted recording. ``*.meta.json`` beside
the log says which engine was recorded.

Scheduling is synchronous: with asynchronous scheduling a step's duration is not that of its own batch.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bidkv.calibration.step_columns import RECORDED_COLUMNS
from bidkv.command_line import print_error, run_command, say
from bidkv.gpu_host.calibration_grid import GridCell, Injection, full_grid, small_grid
from bidkv.gpu_host.calibration_recorder import OutOfTime, Recorder
from bidkv.gpu_host.engine import DEFAULT_SHAPE, build_engine, describe_engine
from bidkv.results.files import write_output

PROG = "bidkv.gpu_host.calibration_run"

_MEMORY_SHARE = 0.95
"""Share of the KV cache that a cell may fill, so that nothing is ever preempted."""

_GRIDS = {"full": full_grid, "small": small_grid}


def make_warm_up(chunk: int) -> GridCell:
    """Return a cell that uses every way of launching once, before anything is timed."""
    return GridCell(-1, 4, 40, chunk, (Injection(2, 20), Injection(1, 2 * chunk)))


def find_misfit(cell: GridCell, recorder: Recorder) -> str:
    """Return why this engine cannot run `cell`; empty when it can."""
    scheduler, model = recorder.engine.vllm_config.scheduler_config, recorder.engine.vllm_config.model_config
    injected = max((i.prompts for i in cell.injections), default=0)
    if cell.requests + injected > scheduler.max_num_seqs:
        return f"needs {cell.requests + injected} sequences, the engine runs {scheduler.max_num_seqs}"
    if cell.longest_request >= model.max_model_len:
        return f"needs {cell.longest_request} tokens a request, the limit is {model.max_model_len}"
    if cell.peak_tokens > _MEMORY_SHARE * recorder.capacity_tokens:
        return f"needs {cell.peak_tokens} tokens of KV cache, the engine has {recorder.capacity_tokens}"
    return ""


def read_recorded_cells(path: Path) -> set[int]:
    """Return the numbers of the cells that the log at `path` already holds.

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


def record_grid(recorder: Recorder, cells: Sequence[GridCell], path: Path, say: Callable[[str], None]) -> int:
    """Record the cells that `path` lacks, until done or out of time; return how many are still missing."""
    done = read_recorded_cells(path)
    todo = [cell for cell in cells if cell.number not in done]
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RECORDED_COLUMNS)
        if not file.tell():
            writer.writeheader()
        for position, cell in enumerate(todo):
            reason = find_misfit(cell, recorder)
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


def command(
    out: Annotated[Path, typer.Option(metavar="FILE", help="step log (CSV) to write, or to go on with")],
    model: Annotated[
        str, typer.Option(metavar="DIR|SHAPE", help="directory with a config.json, or a packaged shape")
    ] = DEFAULT_SHAPE,
    chunks: Annotated[str, typer.Option(metavar="N[,N...]", help="token budgets of a step")] = "2048,512",
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="most requests at once")] = 256,
    passes: Annotated[int, typer.Option(metavar="N", help="how often the grid is recorded")] = 2,
    grid: Annotated[str, typer.Option(metavar="full|small", help="small tries the recorder")] = "full",
    seed: Annotated[int, typer.Option(help="of prompts and of the order of the grid")] = 0,
    time_limit_s: Annotated[float, typer.Option(metavar="S", help="the engine's start included")] = 540.0,
    engine_args: Annotated[
        str, typer.Option(metavar="JSON", help="further fields of vLLM's EngineArgs")
    ] = "{}",
) -> int:
    """Record a step log on a real vLLM engine."""
    started_s = time.perf_counter()
    try:
        budgets = tuple(int(chunk) for chunk in chunks.split(","))
        if grid not in _GRIDS:
            raise ValueError(f"--grid: expected one of {', '.join(_GRIDS)}, got {grid!r}")
        read_recorded_cells(out)
        engine = build_engine(model, max_num_seqs, max(budgets), json.loads(engine_args))
    except ValueError as error:
        return print_error(error)
    recorder = Recorder(engine, time.perf_counter, started_s + time_limit_s, seed)
    write_output(out.with_suffix(".meta.json"), json.dumps(describe_engine(engine), indent=2) + "\n")
    ready_s = time.perf_counter() - started_s
    say(f"engine ready after {ready_s:.0f} s, {recorder.capacity_tokens} tokens of KV cache")
    cells = _GRIDS[grid](budgets, passes, seed)
    try:
        for budget in budgets:
            recorder.record(make_warm_up(budget))
    except OutOfTime:
        missing = len(cells)
    else:
        missing = record_grid(recorder, cells, out, say)
    say(f"{missing} cells missing: run the same command again" if missing else "complete")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
