"""What a simulated engine counts: recompute, prefix hits, lost prefixes, gaps between tokens."""

from __future__ import annotations

from collections.abc import Iterable

from bidkv.results import TokenGaps
from bidkv.simulator.request import SimRequest


class TokenBooks:
    """The counters of one run; O(1) for each admission, each end of a life and each token.

    A *life* of a request lasts from an admission to the next preemption or the request's end. It computes
    the positions from the cached ones on. What lies below the highest position that the request had computed
    in an earlier life is recompute; of the rest, what lies within the past that an earlier turn of its
    session had computed is a lost prefix.
    """

    __slots__ = (
        "_block_size",
        "gaps",
        "lost_prefix_tokens",
        "prefix_hit_tokens",
        "prompt_tokens_seen",
        "recomputed_tokens",
    )

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self.recomputed_tokens = 0
        self.lost_prefix_tokens = 0
        self.prefix_hit_tokens = 0
        self.prompt_tokens_seen = 0
        self.gaps = TokenGaps()

    def open_life(self, request: SimRequest, cached_tokens: int) -> None:
        """`request` is admitted with `cached_tokens` of it found in the cache."""
        request._life_start = cached_tokens
        if request._cached_tokens is None:
            request._cached_tokens = cached_tokens
            self.prompt_tokens_seen += request.num_prompt_tokens
            self.prefix_hit_tokens += cached_tokens

    def close_life(self, request: SimRequest, computed: int) -> None:
        """`request` is preempted or leaves after the position `computed`."""
        recomputed, lost = self._count_life(request, computed)
        self.recomputed_tokens += recomputed
        self.lost_prefix_tokens += lost
        request._high_tokens = max(request._high_tokens, computed)

    def count_open_lives(self, running: Iterable[SimRequest]) -> tuple[int, int]:
        """Return the (recomputed, lost prefix) tokens of lives that go on; none in a run that has ended."""
        lives = [self._count_life(request, request._num_computed_tokens) for request in running]
        return sum(recomputed for recomputed, _ in lives), sum(lost for _, lost in lives)

    def _count_life(self, request: SimRequest, computed: int) -> tuple[int, int]:
        start, high = request._life_start, request._high_tokens
        recomputed = max(0, min(computed, high) - start)
        # A block that was not full could not be cached, so it is not lost either.
        past = min(request._past_tokens, request.num_prompt_tokens - 1)
        past -= past % self._block_size
        return recomputed, max(0, min(computed, past) - max(start, high))

    def take_tokens(self, sampled: Iterable[SimRequest], now_s: float) -> None:
        """One token of each request comes out now."""
        add = self.gaps.add
        last_s = -1.0
        count = 0
        for request in sampled:
            earlier_s = request._last_token_s
            request._last_token_s = now_s
            if earlier_s == last_s:
                count += 1
                continue
            if earlier_s is None:
                request._first_token_s = now_s
                continue
            # Most tokens of a step follow tokens of the same earlier step: their gaps are counted together.
            add(now_s - last_s, count)
            last_s, count = earlier_s, 1
        add(now_s - last_s, count)
