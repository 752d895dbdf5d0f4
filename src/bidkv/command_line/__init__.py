"""Command lines of modules run with `python -m`: one typer command each, and its exit code as a number."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer
import typer.main

from bidkv.command_line.errors import BAD_INPUT, FAILED, INTERRUPTED, print_error, say

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "make_command", "print_error", "run_command", "say"]

Options = TypeVar("Options")


def run_command(
    command: Callable[..., int], prog: str, argv: Sequence[str] | None = None, about: object = None
) -> int:
    """Run a typer command and return its exit code instead of leaving the process.

    Args:
        command: takes its options as typer declares them, and returns the exit code.
        prog: name of the command in messages.
        argv: the arguments; None takes the process's own.
        about: what options with a callback are told of the program.
    """

    @functools.wraps(command)
    def leave(**values: Any) -> None:
        raise typer.Exit(command(**values))

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(leave)
    try:
        typer.main.get_command(app).main(args=None if argv is None else list(argv), prog_name=prog, obj=about)
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
