"""Exit codes of commands, and what they say on stderr."""

from __future__ import annotations

import sys

FAILED = 1
"""Exit code of a command that ran and has no complete result."""

BAD_INPUT = 2
"""Exit code of a command whose input makes no sense; typer uses the same."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C stopped, as shells have it."""


def print_error(error: object) -> int:
    """Print one line that names the mistake in a command's input, and return the exit code for it."""
    print(f"bidkv: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return BAD_INPUT


def say(line: str) -> None:
    """Print a line about the progress on stderr at once."""
    print(line, file=sys.stderr, flush=True)
