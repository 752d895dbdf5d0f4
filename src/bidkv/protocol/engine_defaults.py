"""Members of :class:`bidkv.protocol.policy.EngineView` that an engine need not provide itself."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from bidkv.protocol.policy import Figure, NotClairvoyantError
from bidkv.protocol.requests import RequestView


class EngineViewDefaults:
    """A base for engine views; what is slow here an engine may do faster."""

    __slots__ = ()

    @property
    def most_preemptions(self) -> int | None:
        """None: not kept."""
        return None

    @property
    def blocks_per_growth(self) -> int:
        """1: there is one group of KV cache."""
        return 1

    @property
    def lost_token_price(self) -> float:
        """1: it is computed again."""
        return 1.0

    @property
    def lost_past_price(self) -> float:
        """1: it is computed again."""
        return 1.0

    def preemptable(self, running: Sequence[RequestView]) -> Sequence[RequestView]:
        """Return `running`: every request gives its blocks up at once."""
        return running

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting `request` would really free; every engine says so itself."""
        raise NotImplementedError

    def column(self, requests: Sequence[RequestView], figure: Figure) -> Sequence[int]:
        """Read one figure of each of the running `requests`, one by one."""
        if figure == "freed_blocks":
            return [self.freed_blocks(request) for request in requests]
        return list(map(attrgetter(figure), requests))

    def true_output_tokens(self, request: RequestView) -> int:
        """Raise: a real engine cannot know.

        Raises:
            NotClairvoyantError: always.
        """
        raise NotClairvoyantError("true output lengths are known in the simulator only")
