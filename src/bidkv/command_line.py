"""Command lines of modules run with `python -m`: one typer command each, and its exit code as a number."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer
import typer.main

FAILED = 1
"""Exit code of a command that ran and has no complete result."""

BAD_INPUT = 2
"""Exit code of a command whose input makes no sense; typer uses the same."""

Options = TypeVar("Options")


def run_command(command: Callable[..., int], prog: str, argv: Sequence[str] | None = None) -> int:
    """Run a typer command and return its exit code instead of leaving the process.

    Args:
        command: takes its options as typer declares them, and returns the exit code.
        prog: name of the command in messages.
        argv: the arguments; None takes the process's own.
    """

    @functools.wraps(command)
    def leave(**values: Any) -> None:
        raise typer.Exit(command(**values))

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(leave)
    try:
        typer.main.get_command(app).main(args=None if argv is None else list(argv), prog_name=prog)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def make_command(options: type[Options], run: Callable[[Options], int]) -> Callable[..., int]:
    """Return a typer command whose options are the fields of a dataclass.

    Args:
        options: a keyword-only dataclass with annotations as typer reads them; its docstring is the help.
        run: takes the filled dataclass and returns the exit code.
    """
    hints = get_type_hints(options, include_extras=True)

    def command(**values: Any) -> int:
        return run(options(**values))

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]
    ]
    # typer requires those without a default first, and lists options in this order.
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda each: each.default is not inspect.Parameter.empty)
    )
    command.__annotations__ = {field.name: hints[field.name] for field in fields(options)}  # type: ignore[arg-type]
    command.__doc__ = options.__doc__
    return command


def print_error(prog: str, error: object) -> int:
    """Print one line that names the mistake in a command's input, and return the exit code for it."""
    print(f"{prog}: error: {error}", file=sys.stderr)
    return BAD_INPUT
