"""Results take the place of their forerunners as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from bidkv.results.files import atomic_file, output_file, write_output


@pytest.mark.parametrize("open_file", [atomic_file, output_file])
def test_an_interrupted_writer_leaves_the_former_file_and_nothing_else(
    tmp_path: Path, open_file: Callable[[Path], AbstractContextManager[IO[bytes]]]
) -> None:
    path = tmp_path / "result.json"
    path.write_text("former")

    def write() -> None:
        with open_file(path) as file:
            file.write(b"half of ")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "result"
    path.write_text("former")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_output(link, "é")
    assert link.is_symlink()
    assert path.read_bytes() == "é".encode()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_output(tmp_path / "result", "")
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    with pytest.raises(OSError, match="not a folder, pipe or device"), atomic_file(pipe):
        pass


def test_a_file_in_a_folder_that_takes_no_new_ones_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result"
    path.write_text("former")
    number = path.stat().st_ino
    # Permissions do not stop the superuser, who may run this test.
    monkeypatch.setattr(os, "access", lambda where, mode: False)
    write_output(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_ino == number
