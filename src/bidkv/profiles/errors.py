"""What goes wrong when a profile is read, and how it is said."""

from __future__ import annotations

import json
from typing import Any

_MOST_CHARS = 80


class ProfileError(ValueError):
    """A profile that does not exist or does not hold what it must; the message names file and field."""


def parse_json(content: str, where: str) -> Any:
    """Return what the JSON text holds; `where` names its file.

    Raises:
        ProfileError: not JSON, or nested or with integers beyond what Python reads.
    """
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ProfileError(f"{where}: line {error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(
            f"{where}: expected JSON of an ordinary size ({str(error)[:_MOST_CHARS]})"
        ) from error


def quoted(value: object) -> str:
    """Quote `value` in at most 80 characters, whatever its size."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 3] + "..."
