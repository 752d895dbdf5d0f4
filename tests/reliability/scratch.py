"""A folder for what readers read in these tests; in memory where the system has that.

Most of the time of a small trace goes into opening its file, several times. :func:`traces_in_memory` hands
the readers of traces the same bytes without a file, for millions of inputs.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bidkv.workloads.traces import lines, source

MEMORY = "/dev/shm"  # files in memory, where the system has them
SCRATCH = Path(tempfile.mkdtemp(prefix="bidkv-fuzz-", dir=MEMORY if os.path.isdir(MEMORY) else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")
"""How files begin that are unpacked on the way, or read by another library."""

_in_memory = False
_held: bytes | None = None
"""What stands in for the content of the trace written last; None where it is in its file."""


def file(name: str, content: bytes) -> Path:
    """Write a file into it."""
    global _held
    path = SCRATCH / name
    if not _in_memory or content.startswith(_PACKED):
        _held = None
        path.write_bytes(content)
    else:
        if _held is None:
            path.touch()  # readers ask whether it is there
        _held = content
    return path


def traces_in_memory() -> None:
    """From here on readers of traces get the bytes of the trace written last, where it is not packed.

    Every other reader needs files.
    """
    global _in_memory
    _in_memory = True
    on_disk = lines.open_unpacked

    @contextmanager
    def open_held(path: Path) -> Iterator[IO[bytes]]:
        if _held is not None:
            yield io.BytesIO(_held)
        else:
            with on_disk(path) as opened:
                yield opened

    for module in (lines, source):
        module.open_unpacked = open_held  # type: ignore[attr-defined]
