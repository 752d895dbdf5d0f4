"""How options are declared."""

from __future__ import annotations

from typing import Any

import typer


def valued(metavar: str, text: str) -> Any:
    """Declare an option that takes a value and is named after its parameter.

    Args:
        metavar: what stands for the value in the help.
        text: what the option does.
    """
    return typer.Option(metavar=metavar, help=text)
