"""Files that appear as a whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends well, and vanishes otherwise.

    Raises:
        OSError: it cannot be written, or `path` is a device, a pipe or a folder, which nothing may replace.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected a regular file, not a folder, pipe or device", str(path))
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Temporary files are private; a workload is as readable as any other new file.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines of ASCII text, all or nothing; return how many."""
    number = 0
    with atomic_file(path) as file:
        for line in lines:
            file.write(line.encode("ascii") + b"\n")
            number += 1
    return number
