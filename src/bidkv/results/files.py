"""Files that appear as a whole or not at all: what was there before stays until its successor is complete."""

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

    A link stays a link, and a file that is replaced keeps its permissions.

    Raises:
        OSError: it cannot be written, or `path` is a device, a pipe or a folder, which nothing may replace.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected a regular file, not a folder, pipe or device", str(path))
    target = path.resolve()
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:100]}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, _permissions(target))
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def _permissions(target: Path) -> int:
    """Return the bits of the file that is replaced, or those of any new file: temporary ones are private."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that a user named for a result, as :func:`atomic_file` does wherever that is possible.

    A device or a pipe, which has no former content, is written as it is, and so is a file in a folder that
    takes no new ones.

    Raises:
        OSError: it cannot be written.
    """
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    is_bound = path.is_file() and not os.access(path.resolve().parent, os.W_OK)
    if is_special or is_bound:
        with path.open("wb") as file:
            yield file
    else:
        with atomic_file(path) as replacing:
            yield replacing


def write_output(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text as UTF-8 to a file that a user named; see :func:`output_file`.

    Args:
        path: the file.
        text: its content.
        errors: what becomes of characters that UTF-8 does not have, as `str.encode` takes it.

    Raises:
        OSError: the file cannot be written.
        UnicodeEncodeError: `text` has such characters, and `errors` is "strict".
    """
    content = text.encode("utf-8", errors)
    with output_file(path) as file:
        file.write(content)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines of ASCII text, all or nothing; return how many."""
    number = 0
    with atomic_file(path) as file:
        for line in lines:
            file.write(line.encode("ascii") + b"\n")
            number += 1
    return number
