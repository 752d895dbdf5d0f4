"""Hostile values for every option of commands that read input: one clear line and exit code 2, or success."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from bidkv.cli.app import app

BASES: dict[str, list[str]] = {
    "simulate": ["--limit", "3", "--strategy", "lcf"],
    "calibrate": ["--analytic", "llama-3.1-8b"],
    "explain": [],
    "timeline": [],
}
LONGEST_COMPLAINT = 12_000
"""Of a file name of 5,000 characters, say."""
HOSTILE = (
    "", "-1", "0", "1.5", "nan", "1e999", "9" * 5000, "9" * 20, "é" * 300, "../../etc/passwd", "/",
    "/nonexistent/x.json", "lcf:", ",", ":;=",
)  # fmt: skip


def group() -> click.Group:
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group) or hasattr(command, "list_commands")
    return command  # type: ignore[return-value]


def cases() -> list[tuple[str, str]]:
    found = []
    context = click.Context(click.Command("bidkv"))
    for name in BASES:
        command = group().get_command(context, name)
        if command is None:
            continue
        for parameter in command.params:
            if getattr(parameter, "is_flag", False) or parameter.param_type_name != "option":
                continue
            found.append((name, parameter.opts[0]))
    return found


@pytest.mark.parametrize(("command", "option"), cases())
def test_no_value_of_an_option_gives_a_traceback(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    for value in HOSTILE:
        result = runner.invoke(app, [command, *BASES[command], option, value])
        shown = f"{command} {option} {value[:40]!r}: {result.exception!r}"
        assert result.exit_code in (0, 2), shown
        assert result.exception is None or isinstance(result.exception, SystemExit), shown
        assert "Traceback" not in result.output, shown
        if result.exit_code == 2:
            assert 0 < len(result.output) < LONGEST_COMPLAINT, shown


def test_a_file_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    trace = tmp_path / "caf\udce9.csv"  # one byte of Latin-1
    trace.write_text("prompt_tokens,output_tokens\n10,20\n")
    words = ["simulate", "--trace", str(trace), "--rate", "1", "--strategy", "lcf"]
    done = subprocess.run(
        [sys.executable, "-m", "bidkv.cli", *words], capture_output=True, check=False, env={"PYTHONUTF8": "1"}
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"caf" in done.stdout
