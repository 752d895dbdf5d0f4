"""What commands write: JSON, tables, and the checks that their files can be written at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.results.files import write_output

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 160
"""Columns of a table where no terminal states its width: enough for the widest table of figures."""

_EXTRAS: Mapping[str, Sequence[str]] = {
    "report": ("altair", "vl_convert", "jinja2"),
    "sim": ("numpy", "scipy"),
    "experiments": ("joblib", "scipy"),
    "metrics": ("prometheus_client",),
}
"""The packages that a command needs of each extra."""


def write_json(document: Any, target: str | None) -> bool:
    """Write a document as JSON to a file, or to stdout for `-`; nothing for None.

    Returns:
        Whether stdout is taken, so that nothing else may be printed there.
    """
    if target is None:
        return False
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        typer.echo(text, nl=False)
        return True
    with bad_input("--json"):
        write_output(Path(target), text)
    return False


def table_console() -> Console:
    """Return a console for tables, as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def require_extra(extra: str, purpose: str) -> None:
    """Say in one line, before the run, that an extra is missing.

    Args:
        extra: a name out of pyproject.toml's optional dependencies.
        purpose: the option or command that needs it, for the message.
    """
    if missing := [name for name in _EXTRAS[extra] if find_spec(name) is None]:
        fail(
            f"{purpose} needs {', '.join(missing)}: install bidkv with its [{extra}] extra "
            f"(pip install 'bidkv[{extra}]')"
        )


def require_writable(option: str, file: Path) -> None:
    """Say before the run that a file cannot be written; make its folder where there is none, and say so.

    A file that is not there is left so: the run may be refused for another reason.
    """
    with bad_input(option):
        if not file.parent.exists():
            file.parent.mkdir(parents=True)
            typer.echo(f"bidkv: {option}: made the folder {file.parent}", err=True)
        is_new = not file.exists() and not file.is_symlink()
        file.open("a").close()
        if is_new:
            file.unlink()


def require_other_file(option: str, output: Path, source: Path | str) -> None:
    """Refuse an output that is the input itself: writing it would destroy what was read."""
    with bad_input(option):
        if output.exists() and Path(source).exists() and output.samefile(source):
            fail(f"{option}: expected another file than the input, found {output}")


def require_all_writable(files: Iterable[tuple[str, Path | str | None]]) -> None:
    """Check every (option, file) with :func:`require_writable`; None and `-` need no file."""
    for option, file in files:
        if file is not None and file != "-":
            require_writable(option, Path(file))


@contextmanager
def progress_bar(total: int | None, label: str = "") -> Iterator[Any]:
    """Show a bar on a terminal's stderr; yield what moves it, called with (label, done, total or None)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)

        def advance(label: str, done: float, total: float | None = total) -> None:
            bar.update(task, description=label, completed=done, total=total)

        yield advance
