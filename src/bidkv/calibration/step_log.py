"""Step logs: one CSV row per engine step, read by the calibration.

The columns are those of :mod:`bidkv.calibration.step_columns`, in any order; others are ignored. Without
``prefill_attention`` the chunks are not known. They are then rebuilt: in a grid cell as equal prompts that
enter in order, elsewhere as equal fresh prompts, one a prefilling request.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from bidkv.calibration.step_columns import CELL_COLUMNS, COLUMNS, REQUIRED_COLUMNS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST = 1e15
"""Upper bound of every number; whole numbers up to it are exact in a float."""

_PART_ROWS = 100
"""Rows of the parts into which a log without cells is cut, because neighboring steps are alike."""


class StepLogError(ValueError):
    """A step log that cannot be read; the message names file, line, field and what was expected."""


@dataclass(frozen=True)
class StepLog:
    """Recorded steps; every array has one entry per step.

    Attributes:
        source: name of the file.
        step_s: seconds.
        prefill: prefill tokens scheduled.
        decode: requests that decoded.
        context: tokens resident of the scheduled requests.
        attention: query-key pairs of the prefill.
        prefills: requests that prefilled.
        cell: number of the grid cell (or part of the rows) the step belongs to.
        attention_recorded: whether `attention` was recorded, not rebuilt.
    """

    source: str
    step_s: Floats
    prefill: Ints
    decode: Ints
    context: Ints
    attention: Floats
    prefills: Ints
    cell: Ints
    attention_recorded: bool

    def __len__(self) -> int:
        return len(self.step_s)

    @property
    def tokens(self) -> Ints:
        """Tokens scheduled."""
        return self.prefill + self.decode

    def where(self, mask: NDArray[np.bool_]) -> StepLog:
        """Return the steps that `mask` selects."""
        return StepLog(
            self.source,
            self.step_s[mask],
            self.prefill[mask],
            self.decode[mask],
            self.context[mask],
            self.attention[mask],
            self.prefills[mask],
            self.cell[mask],
            self.attention_recorded,
        )


def read_step_log(path: str | Path) -> StepLog:
    """Read and check a step log.

    Raises:
        StepLogError: a missing column, a value not a number or out of range, tokens that do not add up,
            or no row at all.
        OSError: the file cannot be opened.
    """
    name = str(path)
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or []
            missing = [column for column in REQUIRED_COLUMNS if column not in header]
            if missing:
                raise StepLogError(f"{name}, line 1: expected the columns {', '.join(missing)} too")
            known = [column for column in COLUMNS if column in header]
            rows = [_numbers(name, reader.line_num, row, known) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise StepLogError(f"{name}, line {reader.line_num + 1}: expected CSV text ({error})") from error
    if not rows:
        raise StepLogError(f"{name}: expected at least one step, found none")
    columns = {column: np.array([row[i] for row in rows]) for i, column in enumerate(known)}
    prefill, decode = columns["prefill"], columns["decode"]
    cell = _cells(columns)
    prefills = columns.get("num_prefills")
    if prefills is None:
        running = columns.get("running", decode)
        prefills = np.where(prefill > 0, np.maximum(running - decode, 1.0), 0.0)
    attention = columns.get("prefill_attention")
    recorded = attention is not None
    if attention is None:
        attention = _rebuild_in_cells(columns, cell) if "conc" in columns else _rebuild(prefill, prefills)
    whole = [column.astype(np.int64) for column in (prefill, decode, columns["context"], prefills, cell)]
    return StepLog(
        name, columns["step_s"], whole[0], whole[1], whole[2], attention, whole[3], whole[4], recorded
    )


def _numbers(name: str, line: int, row: dict[str, str], known: list[str]) -> list[float]:
    def fail(field: str, expected: str) -> NoReturn:
        raise StepLogError(
            f"{name}, line {line}, field {field!r}: expected {expected}, found {repr(row[field])[:80]}"
        )

    values = []
    for column in known:
        try:
            value = float(row[column])
        except (TypeError, ValueError):
            fail(column, "a number")
        if not 0 <= value <= _MOST:
            fail(column, f"a number from 0 to {_MOST:g}")
        if column not in ("step_s", "prefill_attention") and value != int(value):
            fail(column, "a whole number")
        values.append(value)
    got = dict(zip(known, values, strict=True))
    if got["step_s"] == 0.0:
        fail("step_s", "seconds above 0")
    if got["tokens"] != got["prefill"] + got["decode"]:
        fail("tokens", f"prefill + decode = {got['prefill'] + got['decode']:.0f}")
    return values


def _cells(columns: dict[str, Floats]) -> Floats:
    names = [column for column in CELL_COLUMNS if column in columns]
    if not names:
        return np.floor(np.arange(len(columns["step_s"])) / _PART_ROWS)
    keys = np.stack([columns[column] for column in names], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].astype(np.float64)


def _rebuild(prefill: Floats, prefills: Floats) -> Floats:
    requests = np.maximum(prefills, 1.0)
    return prefill * prefill / (2.0 * requests)


def _rebuild_in_cells(columns: dict[str, Floats], cell: Floats) -> Floats:
    """Return the query-key pairs of each step if each cell's prompts are equally long and enter in order."""
    pairs = np.zeros(len(cell))
    lost = columns.get("lost", np.zeros(len(cell)))
    for code in np.unique(cell):
        rows = np.flatnonzero(cell == code)
        # What preempted requests lost is prefilled a second time, so it is no part of the prompts.
        prompt = (columns["prefill"][rows].sum() - lost[rows].sum()) / columns["conc"][rows[0]]
        done = 0.0
        for row in rows:
            left = columns["prefill"][row]
            while left > 1e-6:
                chunk = min(left, prompt - done)
                pairs[row] += chunk * (done + chunk / 2.0)
                left -= chunk
                done = 0.0 if done + chunk >= prompt - 1e-6 else done + chunk
    return pairs
