"""Write a run as a JSON document and read it back: one schema for the results of every engine.

Records and timeline are tables (column names, then one row of values for each), so that the document can be
read as JSON and loaded as a table. Numbers come back exactly. Every field is described in
docs/guide/experiments.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from bidkv.results.gaps import TokenGaps
from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.result import RunResult

SCHEMA = "bidkv.run"
SCHEMA_VERSION = 2
"""Written; version 1, which knows no sessions and no prefix cache, is read as well."""

_NUMBER = (int, float)
_MOST = 2**63
"""Largest whole number read; an integer in JSON may have thousands of digits, which no float can hold."""
_MAYBE = (int, float, type(None))
_MAYBE_COUNT = (int, type(None))
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
_SESSION_KINDS: dict[str, tuple[type, ...]] = {
    "session_id": (str,),
    "turn": (int,),
    "ends_session": (bool,),
    "new_tokens": _MAYBE_COUNT,
    "cached_tokens": _MAYBE_COUNT,
}
_TIMELINE_KINDS: dict[str, tuple[type, ...]] = {
    "time_s": _NUMBER,
    "used_blocks": (int,),
    "running": (int,),
    "waiting": (int,),
    "preemptions": (int,),
}
_CACHE_TOTALS = ("prompt_tokens_seen", "prefix_hit_tokens", "lost_prefix_tokens")
_TOTALS = tuple(f.name for f in fields(EngineTotals) if f.name not in (*_CACHE_TOTALS, "extra", "token_gaps"))
_IDLE_KINDS: dict[str, tuple[type, ...]] = {"idle_session_blocks": (int,)}
_OUTCOME_PLACE = list(_RECORD_KINDS).index("outcome")
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
    """A document is not a run in this schema; the message says where, what was expected and what came."""


def encode(result: RunResult) -> str:
    """Return the run as JSON text.

    Raises:
        ValueError: a number that is not finite, or a note that JSON cannot hold.
    """
    totals = {name: getattr(result.totals, name) for name in (*_TOTALS, *_CACHE_TOTALS)}
    gaps = result.totals.token_gaps
    if gaps is not None:
        totals["token_gaps"] = {"longest_s": gaps.longest_s, "counts": gaps.counts()}
    else:
        totals["token_gaps"] = None
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "strategy": result.strategy,
        "simulated_s": result.simulated_s,
        "wall_s": result.wall_s,
        "totals": totals | {"extra": dict(result.totals.extra)},
        "notes": result.notes,
        "records": _table(_RECORD_KINDS | _SESSION_KINDS, result.records),
        "timeline": _table(_TIMELINE_KINDS | _IDLE_KINDS, result.timeline),
    }
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n"
    except (TypeError, RecursionError) as error:
        raise ValueError(f"notes must be what JSON can hold: {error}") from error


def decode(text: str | bytes, where: str = "result") -> RunResult:
    """Return the run that :func:`encode` wrote.

    Args:
        text: the JSON document.
        where: name of the document in error messages, usually its file.

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
    if document["schema"] != SCHEMA:
        _fail(where, "schema", repr(SCHEMA), document["schema"])
    version = document["version"]
    if version not in (1, SCHEMA_VERSION):
        _fail(where, "version", f"1 or {SCHEMA_VERSION}", version)
    record_kinds, point_kinds = _RECORD_KINDS, _TIMELINE_KINDS
    if version > 1:
        record_kinds, point_kinds = record_kinds | _SESSION_KINDS, point_kinds | _IDLE_KINDS
    return RunResult(
        strategy=document["strategy"],
        records=[
            RequestRecord(
                **dict(zip(record_kinds, row, strict=True))
                | {"outcome": _read_outcome(where, row[_OUTCOME_PLACE])}
            )
            for row in _rows(where, "records", document["records"], record_kinds)
        ],
        totals=_read_totals(where, document["totals"], version),
        simulated_s=document["simulated_s"],
        wall_s=document["wall_s"],
        timeline=[TimelinePoint(*row) for row in _rows(where, "timeline", document["timeline"], point_kinds)],
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


def _read_totals(where: str, given: Any, version: int) -> EngineTotals:
    kinds: dict[str, tuple[type, ...]] = {**dict.fromkeys(_TOTALS, _NUMBER), "extra": (dict,)}
    if version > 1:
        kinds |= {**dict.fromkeys(_CACHE_TOTALS, _MAYBE_COUNT), "token_gaps": (dict, type(None))}
    _check_object(where, "totals", given, kinds)
    for name, value in given["extra"].items():
        if type(value) not in _NUMBER or _is_too_large(value):
            _fail(where, f"totals.extra.{name}", _names(_NUMBER), value)
    gaps = given.get("token_gaps")
    return EngineTotals(**given | {"token_gaps": None if gaps is None else _read_gaps(where, gaps)})


def _read_gaps(where: str, given: Any) -> TokenGaps:
    _check_object(where, "totals.token_gaps", given, {"longest_s": _NUMBER, "counts": (list,)})
    for place, pair in enumerate(given["counts"]):
        if (
            type(pair) is not list
            or len(pair) != 2
            or any(type(n) is not int or _is_too_large(n) for n in pair)
        ):
            _fail(where, f"totals.token_gaps.counts[{place}]", "[bin, count] in whole numbers", pair)
    return TokenGaps([(number, count) for number, count in given["counts"]], given["longest_s"])


def _read_outcome(where: str, text: str) -> Outcome:
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
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "an object",
        list: "a list",
    }
    return " or ".join(words.get(kind, "null") for kind in kinds)


def _fail(where: str, field: str, expected: str, value: object) -> NoReturn:
    place = f"{where}, field {field!r}" if field else where
    raise SchemaError(f"{place}: expected {expected}, found {repr(value)[:80]}")
