"""The state of a request that a named strategy reads, the actions it returns, and its base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class RequestState:
    """A running request as a strategy sees it.

    Attributes:
        request_id: unique among live requests.
        current_tokens: KV tokens it holds; for `bidkv` prompt plus generated tokens.
        priority: lower goes first. vLLM's numbers mean the opposite; adapters negate.
        arrival_time_ms: when it arrived, milliseconds on the engine's clock.
        deadline_ms: by when it must be complete, milliseconds on the same clock, or None.
        token_ids: its tokens, where a strategy may see them.
        num_prompt_tokens: length of its prompt.
        num_computed_tokens: positions whose KV is computed and held.
        max_output_tokens: cap on generated tokens; 0 is unknown.
        num_preemptions: how often it was preempted so far.
        private_tokens: KV tokens no other request shares, passed only while prefix caching is on;
            0 is unknown.
    """

    request_id: str
    current_tokens: int
    priority: float = 0.0
    arrival_time_ms: float = 0.0
    deadline_ms: float | None = None
    token_ids: tuple[int, ...] = ()
    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    max_output_tokens: int = 0
    num_preemptions: int = 0
    private_tokens: float = 0.0


@dataclass(frozen=True)
class CompressionAction:
    """An action on one request.

    Attributes:
        request_id: the victim.
        action_type: `evict` all of it or `compress` it; an engine that only preempts does the same for both.
        target_tokens: KV tokens this is meant to free, at least 1.
        metadata: why, for logs; no part of the hash.

    Raises:
        ValueError: a value is out of range.
    """

    request_id: str
    action_type: Literal["evict", "compress"]
    target_tokens: int
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.action_type not in ("evict", "compress"):
            raise ValueError(f"action_type must be 'evict' or 'compress', got {self.action_type!r}")
        if not self.target_tokens > 0:
            raise ValueError(f"target_tokens must be > 0, got {self.target_tokens}")
        object.__setattr__(self, "metadata", dict(self.metadata))


@runtime_checkable
class BaselineContext(Protocol):
    """The source of a strategy's candidates."""

    def get_active_requests(self) -> Sequence[RequestState]:
        """Return the running requests."""
        ...

    def get_kv_stats(self) -> Mapping[str, int]:
        """Return the state of the KV cache; keys as :meth:`bidkv.pressure.PressureDetector.get_kv_stats`."""
        ...


class BaselineStrategy(ABC):
    """A named rule for which requests give up KV memory."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the registry, reports and `BIDKV_STRATEGY` call it."""

    @abstractmethod
    def select_victims(
        self, candidates: Sequence[RequestState], needed_tokens: int, **kwargs: Any
    ) -> list[CompressionAction]:
        """Return the actions, the preferred one first, until `needed_tokens` are freed or candidates run out.

        Args:
            candidates: the requests that may be chosen; the order settles ties. An engine that evicts
                last in, first out lists the newest first.
            needed_tokens: KV tokens to free; nothing is done when this is 0 or less.
            **kwargs: for strategies that need more. Of the named five `largest-first` reads
                `scoring_states`, the scorers of single requests; the others look at no token and read none.
        """


def take_until(actions: Sequence[CompressionAction], needed_tokens: int) -> list[CompressionAction]:
    """Return the shortest prefix of `actions` whose targets add up to `needed_tokens`, or all of them."""
    taken: list[CompressionAction] = []
    freed = 0
    for action in actions:
        if freed >= needed_tokens:
            break
        taken.append(action)
        freed += action.target_tokens
    return taken
