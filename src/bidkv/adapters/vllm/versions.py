"""Which versions of vLLM the adapter was tested on, and which one is here."""

from __future__ import annotations

import re

SUPPORTED = ("0.24", "0.25", "0.26", "0.27", "0.28", "0.29", "0.30", "0.31", "0.32", "0.33")
"""Versions of vLLM (major.minor) on which the adapter was tested against the engine itself, oldest first."""


def read_version() -> str:
    """Return the version of the vLLM of this process."""
    from vllm import __version__ as version

    return str(version)


def is_supported(version: str) -> bool:
    """Whether a version of vLLM is one of :data:`SUPPORTED`.

    >>> is_supported("0.32.0"), is_supported("0.24.0+cu130"), is_supported("0.3.2")
    (True, True, False)
    """
    return ".".join(version.split(".")[:2]) in SUPPORTED


def is_newer(version: str) -> bool:
    """Whether a version of vLLM is newer than all of :data:`SUPPORTED`; one without a number is not.

    >>> is_newer("0.34.0rc1"), is_newer("1.0"), is_newer("0.33.1"), is_newer("0.23.1"), is_newer("dev")
    (True, True, False, False, False)
    """
    newest = tuple(int(part) for part in SUPPORTED[-1].split("."))
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?!\d)", version)
    return found is not None and (int(found[1]), int(found[2])) > newest
