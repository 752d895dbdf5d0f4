"""Limit cycles: waves of eviction and recompute that waste throughput although the load is sustainable.

At saturation, requests admitted together grow together, are evicted together and come back together
(Ao, Dong, Luo and Simchi-Levi, arXiv 2606.15555). Seen from outside: the level of the server swings widely
at a steady beat while recompute takes a good part of the work. The level is KV use where admission is held
back; an engine that admits as soon as the next prompt fits (vLLM) keeps its memory full through the whole
cycle, and what swings is the number of running requests.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from bidkv.stability.estimators import ForgettingMoments

# The longest full swing of a steady beat may take this many times the shortest.
_STEADY_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What the detector sees.

    Attributes:
        is_cycling: enough swings at a steady beat, and recompute above the threshold.
        turns: turns of the level within the window.
        period_s: mean seconds of a full swing down and up; NaN with fewer than three turns.
        swing: mean height of a swing of the level; 0 without any.
        recompute_share: recomputed tokens / computed tokens, over the window.
        is_recompute_rising: the last quarter of the window recomputes a larger share than the whole.
    """

    is_cycling: bool
    turns: int
    period_s: float
    swing: float
    recompute_share: float
    is_recompute_rising: bool


class LimitCycleDetector:
    """Watches the level and recompute; O(1) time and bounded memory an observation.

    Args:
        window_s: how far back it looks, seconds.
        least_swing: change of the level that makes a turn, in (0, 1).
        least_turns: turns within the window that make a cycle, at least 3.
        least_recompute: recompute share that makes it worth the name, in [0, 1).

    >>> detector = LimitCycleDetector(window_s=60.0)
    >>> for second in range(60):
    ...     wave = 0.75 + 0.25 * math.sin(second * 2 * math.pi / 12)
    ...     detector.update(float(second), level=wave, computed_tokens=1000, recomputed_tokens=300)
    >>> report = detector.get()
    >>> report.is_cycling, round(report.period_s), round(report.swing, 1)
    (True, 12, 0.5)
    """

    __slots__ = (
        "_anchor",
        "_anchor_s",
        "_direction",
        "_fast",
        "_latest_s",
        "_least_recompute",
        "_least_swing",
        "_least_turns",
        "_slow",
        "_turns",
        "_window_s",
    )

    def __init__(
        self,
        window_s: float = 120.0,
        least_swing: float = 0.15,
        least_turns: int = 5,
        least_recompute: float = 0.1,
    ) -> None:
        if not 0.0 < least_swing < 1.0 or not 0.0 <= least_recompute < 1.0 or least_turns < 3:
            raise ValueError("least_swing must be in (0, 1), least_recompute in [0, 1), least_turns >= 3")
        self._window_s = window_s
        self._least_swing = least_swing
        self._least_turns = least_turns
        self._least_recompute = least_recompute
        # Computed and recomputed tokens an observation, over the window and over its last quarter.
        self._slow = (ForgettingMoments(window_s), ForgettingMoments(window_s))
        self._fast = (ForgettingMoments(window_s / 4.0), ForgettingMoments(window_s / 4.0))
        self._turns: deque[tuple[float, float]] = deque(maxlen=64)
        self._direction = 0
        self._anchor = math.nan
        self._anchor_s = self._latest_s = 0.0

    def update(self, now_s: float, level: float, computed_tokens: int, recomputed_tokens: int) -> None:
        """Take in one observation.

        Args:
            now_s: seconds, not earlier than the last one.
            level: running requests as a share of max_num_seqs, or KV use, in [0, 1].
            computed_tokens: tokens computed since the last observation, recomputed ones included.
            recomputed_tokens: recomputed ones counted since then; engines count them in lumps, when a
                request's life ends, so they may exceed `computed_tokens` now and then.

        Raises:
            ValueError: a share or count out of range.
        """
        if not 0.0 <= level <= 1.0:
            raise ValueError("level must be in [0, 1]")
        if not (0 <= recomputed_tokens < math.inf and 0 <= computed_tokens < math.inf):
            raise ValueError("computed_tokens and recomputed_tokens must be >= 0 and finite")
        for computed, recomputed in (self._slow, self._fast):
            computed.update(computed_tokens, now_s)
            recomputed.update(recomputed_tokens, now_s)
        self._follow(now_s, level)

    def _follow(self, now_s: float, level: float) -> None:
        """Keep the last extreme; a move of `least_swing` away from it makes it a turn."""
        if math.isnan(self._anchor):
            self._anchor, self._anchor_s = level, now_s
        move = level - self._anchor
        if move * self._direction > 0.0:
            self._anchor, self._anchor_s = level, now_s
        elif abs(move) >= self._least_swing:
            if self._direction:
                self._turns.append((self._anchor_s, self._anchor))
            self._direction = 1 if move > 0.0 else -1
            self._anchor, self._anchor_s = level, now_s
        self._latest_s = now_s

    def get(self) -> CycleReport:
        """Return what was seen within the window before the last observation."""
        since = self._latest_s - self._window_s
        turns = [(at, level) for at, level in self._turns if at >= since]
        halves = [b[0] - a[0] for a, b in pairwise(turns)]
        heights = [abs(b[1] - a[1]) for a, b in pairwise(turns)]
        half = math.fsum(halves) / len(halves) if len(halves) >= 2 else math.nan
        # Down and up may take different times; whole swings are what keeps the beat.
        whole = [a + b for a, b in pairwise(halves)]
        steady = bool(whole) and max(whole) <= _STEADY_WITHIN * min(whole)
        share, recent = _share(self._slow), _share(self._fast)
        return CycleReport(
            is_cycling=len(turns) >= self._least_turns and steady and share >= self._least_recompute,
            turns=len(turns),
            period_s=2.0 * half,
            swing=math.fsum(heights) / len(heights) if heights else 0.0,
            recompute_share=share,
            is_recompute_rising=recent > share,
        )


def _share(tokens: tuple[ForgettingMoments, ForgettingMoments]) -> float:
    computed, recomputed = (moments.get().value for moments in tokens)
    return min(recomputed / computed, 1.0) if computed > 0.0 else 0.0
