"""A run as a JSON document and back: the one schema in which every engine's results are kept.

Records and timeline are tables, column names first and one row of values each, so that the document reads as
JSON and loads as a table. Numbers come back to the last bit. docs/guide/experiments.md describes every field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.result import RunResult

SCHEMA = "bidkv.run"
SCHEMA_VERSION = 1

_NUMBER = (int, float)
_MOST = 2**63
"""No whole number of a run is larger."""
_MAYBE = (int, float, type(None))
_RECORD_KINDS: dict[str, tuple[type, ...]] = {
    "request_id": (str,),
    "arrival_s": _NUMBER,
    "prompt_tokens": (int,),
    "output_tokens": (int,),
    "first_token_s": _MAYBE,
    "finish_s": _MAYBE,
    "preemptions": (int,),
    "outcome": (str,),
    "detail": (str,),
}
_TIMELINE_KINDS: dict[str, tuple[type, ...]] = {
    "time_s": _NUMBER,
    "used_blocks": (int,),
    "running": (int,),
    "waiting": (int,),
    "preemptions": (int,),
}
_TOTALS = tuple(f.name for f in fields(EngineTotals) if f.name != "extra")
_TOP: dict[str, tuple[type, ...]] = {
    "schema": (str,),
    "version": (int,),
    "strategy": (str,),
    "simulated_s": _NUMBER,
    "wall_s": _NUMBER,
    "totals": (dict,),
    "notes": (dict,),
    "records": (dict,),
    "timeline": (dict,),
}


class SchemaError(ValueError):
    """A document is not a run's result in this schema; the message names the place and what was expected."""


def encode(result: RunResult) -> str:
    """Return the run as JSON text.

    Raises:
        ValueError: a number that is not finite, or a note that JSON cannot hold.
    """
    totals = {name: getattr(result.totals, name) for name in _TOTALS}
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "strategy": result.strategy,
        "simulated_s": result.simulated_s,
        "wall_s": result.wall_s,
        "totals": totals | {"extra": dict(result.totals.extra)},
        "notes": result.notes,
        "records": _table(_RECORD_KINDS, result.records),
        "timeline": _table(_TIMELINE_KINDS, result.timeline),
    }
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n"
    except (TypeError, RecursionError) as error:
        raise ValueError(f"notes must be what JSON can hold: {error}") from error


def decode(text: str | bytes, where: str = "result") -> RunResult:
    """Return the run that :func:`encode` made a text of.

    Args:
        text: the JSON document.
        where: what error messages call it, as a rule its file.

    Raises:
        SchemaError: not JSON, another schema or version, or a field of the wrong kind.
    """
    try:
        document = json.loads(
            text,
            parse_constant=lambda name: _fail(where, "", "a finite number", name),
            parse_float=lambda number: _finite(where, number),
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(f"{where}: expected JSON ({str(error)[:120]})") from error
    _check_object(where, "", document, _TOP)
    for name, expected in (("schema", SCHEMA), ("version", SCHEMA_VERSION)):
        if document[name] != expected:
            _fail(where, name, repr(expected), document[name])
    return RunResult(
        strategy=document["strategy"],
        records=[
            RequestRecord(
                **dict(zip(_RECORD_KINDS, row, strict=True)) | {"outcome": _outcome(where, row[-2])}
            )
            for row in _rows(where, "records", document["records"], _RECORD_KINDS)
        ],
        totals=_totals(where, document["totals"]),
        simulated_s=document["simulated_s"],
        wall_s=document["wall_s"],
        timeline=[
            TimelinePoint(*row) for row in _rows(where, "timeline", document["timeline"], _TIMELINE_KINDS)
        ],
        notes=document["notes"],
    )


def _table(kinds: Mapping[str, Any], items: Sequence[object]) -> dict[str, Any]:
    return {"columns": list(kinds), "rows": [[getattr(item, name) for name in kinds] for item in items]}


def _rows(where: str, name: str, table: Any, kinds: Mapping[str, tuple[type, ...]]) -> list[list[Any]]:
    _check_object(where, name, table, {"columns": (list,), "rows": (list,)})
    if table["columns"] != list(kinds):
        _fail(where, f"{name}.columns", ", ".join(kinds), table["columns"])
    rows: list[list[Any]] = table["rows"]
    for number, row in enumerate(rows):
        if type(row) is not list or len(row) != len(kinds):
            _fail(where, f"{name}.rows[{number}]", f"{len(kinds)} values", row)
        for (column, allowed), value in zip(kinds.items(), row, strict=True):
            if type(value) not in allowed or _is_too_large(value):
                _fail(where, f"{name}.rows[{number}].{column}", _names(allowed), value)
    return rows


def _totals(where: str, given: Any) -> EngineTotals:
    _check_object(where, "totals", given, {**dict.fromkeys(_TOTALS, _NUMBER), "extra": (dict,)})
    for name, value in given["extra"].items():
        if type(value) not in _NUMBER or _is_too_large(value):
            _fail(where, f"totals.extra.{name}", _names(_NUMBER), value)
    return EngineTotals(**given)


def _outcome(where: str, text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:
        _fail(where, "records.outcome", " or ".join(Outcome), text)


def _check_object(where: str, name: str, value: Any, kinds: Mapping[str, tuple[type, ...]]) -> None:
    if type(value) is not dict or set(value) != set(kinds):
        _fail(where, name, f"an object with exactly the fields {', '.join(kinds)}", value)
    for field, allowed in kinds.items():
        if type(value[field]) not in allowed or _is_too_large(value[field]):
            _fail(where, f"{name}.{field}".lstrip("."), _names(allowed), value[field])


def _finite(where: str, text: str) -> float:
    # JSON's 1e999 would read as infinity.
    value = float(text)
    return value if math.isfinite(value) else _fail(where, "", "a finite number", text)


def _is_too_large(value: object) -> bool:
    # An integer may have thousands of digits, which no float can be counted with.
    return isinstance(value, int) and abs(value) > _MOST


def _names(kinds: Sequence[type]) -> str:
    words = {int: "a whole number", float: "a number", str: "text", dict: "an object", list: "a list"}
    return " or ".join(words.get(kind, "null") for kind in kinds)


def _fail(where: str, field: str, expected: str, value: object) -> NoReturn:
    place = f"{where}, field {field!r}" if field else where
    raise SchemaError(f"{place}: expected {expected}, found {repr(value)[:80]}")
