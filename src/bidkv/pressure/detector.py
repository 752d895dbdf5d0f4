"""When KV memory is short, and how short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class PressureConfig:
    """When a KV cache counts as under pressure.

    Attributes:
        threshold_pct: share of the tokens in use from which on there is pressure, in (0, 1].
        min_free_tokens: tokens that must be free while high-priority requests wait, at least 0.
        enabled: off by default.
        release_pct: hysteresis, off by default (None): once the threshold is reached, pressure lasts
            until less than this share is in use; in (0, threshold_pct].

    Raises:
        ValueError: a value is out of range.
    """

    threshold_pct: float = 0.85
    min_free_tokens: int = 512
    enabled: bool = False
    release_pct: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold_pct <= 1.0:
            raise ValueError(f"threshold_pct must be in (0.0, 1.0], got {self.threshold_pct!s:.60}")
        if not self.min_free_tokens >= 0:
            raise ValueError(f"min_free_tokens must be >= 0, got {self.min_free_tokens!s:.60}")
        if self.release_pct is not None and not 0.0 < self.release_pct <= self.threshold_pct:
            raise ValueError(f"release_pct must be in (0.0, threshold_pct], got {self.release_pct!s:.60}")


class _Stats(NamedTuple):
    used: int = 0
    max: int = 0
    pending: int = 0
    limit_pct: float = 1.0  # the share in use from which on there is pressure now


class PressureDetector:
    """Says from the last reported figures whether KV memory is short and how many tokens are missing.

    :meth:`update_stats` replaces the figures in one assignment, so that a reader in another thread
    never sees half of an update.
    """

    __slots__ = ("_config", "_enabled", "_stats")

    def __init__(self, config: PressureConfig | None = None) -> None:
        self._config = config or PressureConfig()
        self._enabled = self._config.enabled
        self._stats = _Stats(limit_pct=self._config.threshold_pct)

    def set_enabled(self, enabled: bool) -> None:
        """Switch detection on or off; figures are kept."""
        self._enabled = enabled

    def update_stats(self, used_tokens: int, max_tokens: int, pending_high_priority: int = 0) -> None:
        """Report the state of the KV cache.

        Args:
            used_tokens: tokens in use, at least 0.
            max_tokens: tokens there are; 0 or less while unknown.
            pending_high_priority: high-priority requests that wait, at least 0.

        Raises:
            ValueError: `used_tokens` or `pending_high_priority` is negative.
        """
        if not used_tokens >= 0:
            raise ValueError(f"used_tokens must be >= 0, got {used_tokens!s:.60}")
        if not pending_high_priority >= 0:
            raise ValueError(f"pending_high_priority must be >= 0, got {pending_high_priority!s:.60}")
        config = self._config
        limit_pct = config.threshold_pct
        release_pct = config.release_pct
        if release_pct is not None and max_tokens > 0 and used_tokens / max_tokens >= self._stats.limit_pct:
            limit_pct = release_pct
        self._stats = _Stats(used_tokens, max_tokens, pending_high_priority, limit_pct)

    def is_under_pressure(self) -> bool:
        """Whether the share in use reached the threshold, or high priority waits with too little free.

        Always False while disabled or while the size of the cache is unknown.
        """
        stats = self._stats
        if not self._enabled or stats.max <= 0:
            return False
        return stats.used / stats.max >= stats.limit_pct or self._reserve_shortfall(stats) > 0

    def needed_tokens(self) -> int:
        """Tokens to free until neither condition holds, whether detection is enabled or not.

        The larger of what lies above the threshold (above `release_pct` while hysteresis holds) and
        what is missing from `min_free_tokens`; 0 while the size of the cache is unknown.
        """
        stats = self._stats
        if stats.max <= 0:
            return 0
        return max(0, stats.used - int(stats.max * stats.limit_pct), self._reserve_shortfall(stats))

    def get_kv_stats(self) -> dict[str, int]:
        """Return used_tokens, max_tokens, free_tokens (at least 0) and pending_high_priority."""
        stats = self._stats
        return {
            "used_tokens": stats.used,
            "max_tokens": stats.max,
            "free_tokens": max(0, stats.max - stats.used),
            "pending_high_priority": stats.pending,
        }

    def _reserve_shortfall(self, stats: _Stats) -> int:
        return self._config.min_free_tokens - (stats.max - stats.used) if stats.pending > 0 else 0
