"""How a command says that its input is wrong: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from bidkv.command_line.errors import print_error


def fail(message: str) -> NoReturn:
    """Print one line that names the mistake and leave with exit code 2."""
    raise typer.Exit(print_error(message))


@contextmanager
def bad_input(what: str) -> Iterator[None]:
    """Turn the errors that readers raise about their input into :func:`fail`.

    Wrap only the reading of a user's input. The same exceptions raised by a run are bugs and must keep their
    traceback.
    """
    try:
        yield
    except OSError as error:
        fail(": ".join(filter(None, (what, str(error.filename or ""), error.strerror or str(error)))))
    except (ValueError, LookupError) as error:
        # A KeyError's str() is the repr of its message; its first argument is the message itself.
        fail(f"{what}: {error.args[0] if error.args else error}")
