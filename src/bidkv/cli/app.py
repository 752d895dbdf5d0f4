"""The top of the command tree: `bidkv --help`, `--version`, and the table of commands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bidkv._version import __version__
from bidkv.command_line.errors import INTERRUPTED

COMMANDS: dict[str, str] = {
    "simulate": "bidkv.cli.simulate",
    "compare": "bidkv.cli.compare",
    "plan": "bidkv.cli.plan",
    "calibrate": "bidkv.cli.calibrate",
    "tournament": "bidkv.cli.tournament",
    "experiment": "bidkv.cli.experiment",
    "report": "bidkv.cli.report",
    "doctor": "bidkv.cli.doctor",
    "explain": "bidkv.cli.explain",
    "replay": "bidkv.cli.replay",
    "timeline": "bidkv.cli.timeline",
    "top": "bidkv.cli.top",
    "trace": "bidkv.cli.trace",
}
"""Command name -> module with its function `command`, or its group `app`; in the order of `--help`."""


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("bidkv: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command; None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name])
        if (group := getattr(module, "app", None)) is not None:
            found = typer.main.get_group(group)
            found.name = cmd_name
            return found
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = getattr(module, "CONTEXT_SETTINGS", None)
        single.command(name=cmd_name, context_settings=settings)(module.command)
        return typer.main.get_command(single)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bidkv {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="bidkv",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The control plane for an LLM server's KV cache.

    Which request is preempted, which one enters, how much memory stays free, which sessions keep their KV:
    tried on your own trace, without a GPU, and watched on your servers.
    """
