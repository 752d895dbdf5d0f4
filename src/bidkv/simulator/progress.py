"""How a long simulation tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, float], None]
"""Called now and then with (requests finished so far, simulated seconds)."""

PROGRESS_EVERY = 256
