"""Strategies by name."""

from __future__ import annotations

from bidkv.baselines.base import BaselineStrategy
from bidkv.baselines.bidkv_strategy import BidKVStrategy
from bidkv.baselines.largest_first import LargestFirstStrategy
from bidkv.baselines.preempt import PreemptEvictSJFStrategy, PreemptEvictStrategy
from bidkv.baselines.static_random import StaticRandomStrategy

_NAMED_FIVE: tuple[type[BaselineStrategy], ...] = (
    PreemptEvictStrategy,
    PreemptEvictSJFStrategy,
    StaticRandomStrategy,
    LargestFirstStrategy,
    BidKVStrategy,
)


class BaselineRegistry:
    """Holds strategies under their names; empty until filled."""

    __slots__ = ("_strategies",)

    def __init__(self) -> None:
        self._strategies: dict[str, BaselineStrategy] = {}

    def register(self, strategy: BaselineStrategy) -> None:
        """Add a strategy under its name.

        Raises:
            ValueError: the name is taken.
        """
        if strategy.name in self._strategies:
            raise ValueError(f"Strategy '{strategy.name}' already registered")
        self._strategies[strategy.name] = strategy

    def get(self, name: str) -> BaselineStrategy:
        """Return the strategy called `name`.

        Raises:
            KeyError: there is none; the message lists what exists.
        """
        try:
            return self._strategies[name]
        except KeyError:
            available = ", ".join(self.list_strategies()) or "none"
            raise KeyError(f"Strategy '{name}' not found. Available: {available}") from None

    def list_strategies(self) -> list[str]:
        """Return the names in alphabetical order."""
        return sorted(self._strategies)

    @property
    def count(self) -> int:
        """How many strategies are registered."""
        return len(self._strategies)

    def create_default_registry(self) -> None:
        """Register the five named strategies, skipping names that are taken."""
        for strategy_class in _NAMED_FIVE:
            strategy = strategy_class()
            if strategy.name not in self._strategies:
                self._strategies[strategy.name] = strategy
