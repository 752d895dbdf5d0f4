"""The contract's adapter interface and its counters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

from bidkv.config import BidKVConfig
from bidkv.scoring import ScoringStrategy


class FrameworkAdapter(ABC):
    """Connects one engine.

    Args:
        config: the switches of this deployment.
        scoring: scores tokens where the engine can compress.
    """

    def __init__(self, config: BidKVConfig, scoring: ScoringStrategy) -> None:
        self._config = config
        self._scoring = scoring

    @property
    def config(self) -> BidKVConfig:
        """The switches of this deployment."""
        return self._config

    @property
    def scoring(self) -> ScoringStrategy:
        """The strategy that scores tokens."""
        return self._scoring

    @abstractmethod
    def install(self) -> None:
        """Put the adapter's hooks in place."""

    @abstractmethod
    def get_kv_stats(self) -> tuple[int, int]:
        """Return KV tokens used and KV tokens there are."""

    @abstractmethod
    def on_request_complete(self, request_id: str) -> None:
        """Forget what is known of a request that left the engine."""


@dataclass
class BaseAdapterMetrics:
    """Counters of an adapter; each of them only grows."""

    total_evictions: int = 0
    total_tokens_freed: int = 0
    total_pressure_events: int = 0
    total_requests_completed: int = 0
    total_decode_steps: int = 0
    kill_switch_activations: int = 0

    def record_eviction(self, tokens_freed: int = 0) -> None:
        """Count one eviction and the KV tokens it freed.

        Raises:
            ValueError: `tokens_freed` is negative.
        """
        if not tokens_freed >= 0:
            raise ValueError(f"tokens_freed must be >= 0, got {tokens_freed}")
        self.total_evictions += 1
        self.total_tokens_freed += tokens_freed

    def record_pressure_event(self) -> None:
        """Count one shortage of KV memory."""
        self.total_pressure_events += 1

    def record_request_completed(self) -> None:
        """Count one completed request."""
        self.total_requests_completed += 1

    def record_decode_step(self) -> None:
        """Count one step of the engine."""
        self.total_decode_steps += 1

    def record_kill_switch_activation(self) -> None:
        """Count one use of the kill switch."""
        self.kill_switch_activations += 1

    def as_dict(self) -> dict[str, int]:
        """Return every counter under its name."""
        return asdict(self)
