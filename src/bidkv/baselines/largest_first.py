"""Compresses the requests with the most compressible tokens first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bidkv.baselines.base import BaselineStrategy, CompressionAction, RequestState
from bidkv.scoring import PositionalScoring, ScoringStrategy

_UNIMPORTANT_BELOW = 0.5


def compressible_tokens(tokens: int, compressible_ratio: float, scores: Sequence[float] = ()) -> int:
    """Return how many of a request's tokens may be dropped.

    Args:
        tokens: KV tokens it holds, at least 1.
        compressible_ratio: largest share that may be dropped, in (0, 1].
        scores: importance of its tokens where known; only tokens that score below 0.5 may then be dropped.
    """
    share = max(1, int(compressible_ratio * tokens))
    if not scores:
        return share
    return min(share, sum(1 for score in scores if score < _UNIMPORTANT_BELOW))


class LargestFirstStrategy(BaselineStrategy):
    """Compresses the requests with the most compressible tokens first, each no more than still needed.

    Args:
        scoring: scores the tokens of requests that show them; positional scoring by default.
        compressible_ratio: largest share of a request that may be dropped, in (0, 1].

    Raises:
        ValueError: `compressible_ratio` is out of range.
    """

    def __init__(self, *, scoring: ScoringStrategy | None = None, compressible_ratio: float = 0.6) -> None:
        if not 0.0 < compressible_ratio <= 1.0:
            raise ValueError(f"compressible_ratio must be in (0, 1], got {compressible_ratio}")
        self._scoring = scoring or PositionalScoring()
        self._compressible_ratio = compressible_ratio

    @property
    def name(self) -> str:
        """`largest-first`."""
        return "largest-first"

    @property
    def scoring(self) -> ScoringStrategy:
        """The scorer of requests that show their tokens."""
        return self._scoring

    def select_victims(
        self, candidates: Sequence[RequestState], needed_tokens: int, **kwargs: Any
    ) -> list[CompressionAction]:
        """Compress by compressible tokens, descending; a request of one token or less is skipped.

        A request is scored by its own scorer where `scoring_states` (keyword; request id to a
        :class:`~bidkv.scoring.ScoringStrategy`) has one, such as one that watched its decode steps, and else
        by the strategy's. The metadata's `estimated_quality_delta` is the mean importance of the dropped
        tokens (the lowest scores), or without scores the dropped share of the request.
        """
        if needed_tokens <= 0:
            return []
        scorers: Mapping[str, ScoringStrategy] = kwargs.get("scoring_states") or {}
        ranked: list[tuple[int, list[float], RequestState]] = []
        for request in candidates:
            if request.current_tokens <= 1:
                continue
            scorer = scorers.get(request.request_id, self._scoring)
            scores = scorer.score(request.token_ids) if request.token_ids else []
            compressible = compressible_tokens(request.current_tokens, self._compressible_ratio, scores)
            if compressible > 0:
                ranked.append((compressible, scores, request))
        ranked.sort(key=lambda entry: entry[0], reverse=True)

        actions = []
        remaining = needed_tokens
        for compressible, scores, request in ranked:
            if remaining <= 0:
                break
            target = min(compressible, remaining)
            remaining -= target
            delta = sum(sorted(scores)[:target]) / target if scores else target / request.current_tokens
            metadata = {
                "strategy": self.name,
                "estimated_quality_delta": delta,
                "compressible_tokens": compressible,
            }
            actions.append(CompressionAction(request.request_id, "compress", target, metadata))
        return actions
