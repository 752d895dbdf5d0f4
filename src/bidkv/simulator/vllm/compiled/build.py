"""How the kernel is compiled: its parts into the functions that Python calls, the only ones cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

compile_phase: Callable[..., Any] = njit(_nrt=False)  # type: ignore[call-overload]
compile_part: Callable[..., Any] = njit(_nrt=False, forceinline=True)  # type: ignore[call-overload]
"""Compiles a part of the kernel.

Parts do not count references (`_nrt`): they allocate nothing, the generator that calls them holds every
array, and counting took three quarters of a run. Nor do parts have a cache of their own: numba compares a
cached function's own file with its cache, so a cached part would miss a change of what it calls.
"""


def digest_sources() -> str:
    """Return a digest of this package's sources.

    A function that numba caches holds it in its closure: numba includes closures in a cache's key, so an edit
    anywhere in the package compiles the function again.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
