"""Callbacks by which a long simulation reports its progress."""

from __future__ import annotations

from collections.abc import Callable

from bidkv.results import RequestRecord

ProgressCallback = Callable[[int, float], None]
"""Called every `PROGRESS_EVERY` records with (records so far, simulated seconds)."""

RecordCallback = Callable[[RequestRecord], None]
"""Called with each request's record when it leaves the engine."""

PROGRESS_EVERY = 256
"""Records between two calls: often enough for a progress bar, rare enough to cost nothing."""
