"""How the kernel is compiled: its parts into the functions that Python calls, the only ones cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

compile_part: Callable[..., Any] = njit(_nrt=False, forceinline=True)  # type: ignore[call-overload]
"""Compiles a part of the kernel into its callers: with dozens of arrays to hand over, a call costs more than
most parts do.

Neither parts nor entries count references (`_nrt`): they allocate nothing, :class:`Kernel` holds every array,
and counting took three quarters of a run. Parts have no cache of their own: numba compares a cached
function's own file with its cache, so a cached part would miss a change of what it calls.
"""

compile_entry: Callable[..., Any] = njit(_nrt=False, cache=True)  # type: ignore[call-overload]
"""Compiles what Python calls, and keeps it on disk; see :func:`digest_sources`."""


def digest_sources() -> str:
    """Return a digest of this package's sources.

    A function that numba caches holds it in its closure: numba includes closures in a cache's key, so an edit
    anywhere in the package compiles the function again.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
