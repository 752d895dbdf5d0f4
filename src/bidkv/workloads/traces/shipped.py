"""Traces that ship with the package, by name; NOTICE states their sources and licenses."""

from __future__ import annotations

import stat
from pathlib import Path

from bidkv.workloads.traces.errors import TraceError

_FOLDER = Path(__file__).parent / "data"
_SHIPPED = {
    "arxiv-lengths": "arxiv-lengths-2826.csv",
    "azure-conv": "azure-conv-2000.csv",
    "mooncake-conv": "mooncake-conv-2000.jsonl",
    "sharegpt-lengths": "sharegpt-lengths-3074.csv",
}


def available_traces() -> tuple[str, ...]:
    """Return the names `read_trace` knows without a file.

    >>> "azure-conv" in available_traces()
    True
    """
    return tuple(sorted(_SHIPPED))


def find_trace(path_or_name: str | Path) -> Path:
    """Return the file behind a shipped name; anything else is a path already."""
    name = _SHIPPED.get(str(path_or_name))
    return Path(path_or_name) if name is None else _FOLDER / name


def require_regular_file(path: Path) -> None:
    """Raise TraceError unless `path` is a regular file: a pipe could not be read twice, and may never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        names = ", ".join(available_traces())
        raise TraceError(f"{path}: no trace to read ({error}); traces that ship: {names}") from error
    if not regular:
        raise TraceError(f"{path}: expected a regular file, not a folder, pipe or device")
