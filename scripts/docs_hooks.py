"""Hooks of mkdocs: the page of commands is written from the commands themselves."""

from __future__ import annotations

from typing import Any

import click
import typer

from bidkv.cli.app import COMMANDS, app

MARKER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands where a page asks for them."""
    return markdown.replace(MARKER, commands()) if MARKER in markdown else markdown


def commands() -> str:
    """Return every command's help as Markdown."""
    group = typer.main.get_command(app)
    context = click.Context(group, info_name="bidkv")
    sections = []
    for name in COMMANDS:
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        sections.append(_command(name, command, click.Context(command, info_name=name, parent=context)))
        for part, inner in getattr(command, "commands", {}).items():
            full = f"{name} {part}"
            sections.append(_command(full, inner, click.Context(inner, info_name=full, parent=context)))
    return "\n\n".join(sections) + "\n"


def _command(name: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## bidkv {name}", f"```text\nbidkv {name} {usage}\n```"]
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            heading, *rest = paragraph.removeprefix("\b").strip().splitlines()
            block = "\n".join(line.strip() for line in rest)
            lines.append(f"{heading}\n\n```console\n{block}\n```")
        else:
            lines.append(paragraph)
    rows = [record for p in command.params if (record := p.get_help_record(context)) is not None]
    if rows:
        table = ["| option | meaning |", "|---|---|"]
        # Within backticks a bar ends no cell and needs no backslash.
        table += [f"| `{' '.join(option.split())}` | {_cell(text)} |" for option, text in rows]
        lines.append("\n".join(table))
    return "\n\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
