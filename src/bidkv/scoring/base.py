"""What a scorer of tokens looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ScoringStrategy(Protocol):
    """Judges how much each token of a sequence matters to the tokens still to come."""

    def score(self, token_ids: Sequence[int], **context: Any) -> list[float]:
        """Return one score per token, in [0, 1]; higher is more important."""
        ...
