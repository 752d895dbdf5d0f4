"""How a long simulation tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

from bidkv.results import RequestRecord

ProgressCallback = Callable[[int, float], None]
"""Called now and then with (requests finished so far, simulated seconds)."""

RecordCallback = Callable[[RequestRecord], None]
"""Called with each request's record when it leaves the engine."""

PROGRESS_EVERY = 256
