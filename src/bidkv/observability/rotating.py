"""A bounded series of append-only files that only their owner can read.

The standard library's rotating log handler buffers, formats and swallows errors; here every line is one
write, so that a process that is killed leaves whole lines and a full disk is noticed at once.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import count, takewhile
from pathlib import Path

MAX_BYTES = 64 << 20
OLDER_FILES = 3


class RotatingFile:
    """Appends lines to `path`; at `max_bytes` it becomes `path.1`, which became `path.2`, and so on.

    Args:
        path: the newest file. What is not a regular file of this process's own user is refused, a symbolic
            link too; others lose the permission to read it.
        max_bytes: longest file.
        older: how many older files are kept, at least 1.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, older: int = OLDER_FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._older = older
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size
        self.is_new = True

    def _open(self) -> int:
        # Non-blocking, so that a named pipe in its place cannot hold the engine up.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise OSError(errno.EPERM, "it is not a regular file of this process's user", str(self._path))
            os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def write(self, line: bytes) -> None:
        """Append a line; `is_new` is true until the first line of a file (or of this process) is written.

        Raises:
            OSError: the line could not be written whole; nothing of it is left in the file.
        """
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self.is_new = False
        self._size += written
        if self._size >= self._max_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self.close()
        if self._path.exists():  # else its owner moved or removed it, and the series starts anew
            for number in range(self._older - 1, 0, -1):
                source = older_file(self._path, number)
                if source.exists():
                    source.replace(older_file(self._path, number + 1))
            self._path.replace(older_file(self._path, 1))
        self._descriptor = self._open()
        self._size = 0
        self.is_new = True

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def older_file(path: Path, number: int) -> Path:
    """Return the name of the `number`-th older file of a series, 1 being the latest of them."""
    return path.with_name(f"{path.name}.{number}")


def older_files(path: Path) -> list[Path]:
    """Return the older files of a series that are there, the latest of them first."""
    return list(takewhile(Path.exists, (older_file(path, number) for number in count(1))))


def discard_series(path: Path) -> None:
    """Remove a file and the older ones of its series."""
    for file in (path, *older_files(path)):
        file.unlink(missing_ok=True)
