"""The `bidkv` command: one file a command, loaded only when it is used.

A new command is a module here with a function `command` (typer annotations), named in the table of
:mod:`bidkv.cli.app`. Modules import nothing heavy at their top, so that `bidkv --help` stays fast.
"""

from __future__ import annotations

import errno
import io
import signal
import sys

_EXTRA = frozenset({"typer", "rich"})

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a full disk or a full quota answers."""


def main() -> None:
    """Run the command line; without the `[cli]` extra say what is missing and exit 2."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules were imported
        print("bidkv: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        # All is written. From here on Ctrl-C must not be answered with a traceback of Python's own end.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run() -> None:
    try:
        import rich  # noqa: F401  the commands need it; typer alone would start

        from bidkv.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"bidkv: the command line needs {error.name}: install bidkv with its [cli] extra, "
            'in a checkout with: pip install -e ".[cli]"',
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    # A file name may hold bytes that are not text; printing one must not end a run with a traceback.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        print(f"bidkv: error: output: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
