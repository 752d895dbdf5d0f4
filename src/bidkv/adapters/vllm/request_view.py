"""vLLM's requests as the policy protocol sees them: one view per live request, and the running list as views.

Nothing is copied per step. A view holds the engine's object and reads from it what steps change. What only
events change is copied at the event, since reading a slot is ten times as fast as reading a property.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from bidkv.adapters.client_values import ClientValues, session_name
from bidkv.protocol.read_only import seal, write_facts


class VllmRequest:
    """A live vLLM request as a `RequestView`. What belongs to the engine has a name with an underscore.

    What the client states beyond vLLM's own fields comes from the request's extra arguments: see
    :class:`bidkv.adapters.client_values.ClientValues`.
    """

    __slots__ = (
        "_blocks",
        "_held",
        "_max_model_len",
        "_output_token_ids",
        "_request",
        "_shown_cap",
        "agent_id",
        "arrival_s",
        "deadline_s",
        "gap_hint_s",
        "is_last_turn",
        "max_tokens",
        "num_cached_tokens",
        "num_noted_blocks",
        "num_preemptions",
        "num_prompt_tokens",
        "num_shared_blocks",
        "priority",
        "request_id",
        "session_id",
        "turn",
        "weight",
    )
    max_tokens: int | None
    num_preemptions: int
    num_prompt_tokens: int

    def __init__(
        self, request: Any, arrival_s: float, held: Mapping[str, list[Any]], max_model_len: int
    ) -> None:
        self._request = request
        self.request_id: str = request.request_id
        self.arrival_s = arrival_s
        # A copy: the engine's field is raised for a moment when a victim is named under `priority`.
        self.priority: int = request.priority
        self._held = held
        self._max_model_len = max_model_len
        params = request.sampling_params
        stated = ClientValues(None if params is None else params.extra_args)
        self.deadline_s = stated.read_deadline_s(arrival_s)
        self.weight = stated.weight
        self.agent_id = stated.agent_id
        # vLLM hands a session of its own down since 0.32 (a field of the request, or a header).
        self.session_id = stated.session_id or session_name(getattr(request, "session_id", None))
        self.turn = 0
        self.gap_hint_s = stated.gap_hint_s
        self.is_last_turn = stated.is_last_turn
        self._shown_cap = stated.shown_cap
        self.num_cached_tokens = 0
        # The engine's own lists, which it changes in place: the lengths of thousands are read at a time.
        self._output_token_ids: Sequence[int] = request._output_token_ids
        self._blocks: Sequence[Any] = ()
        # `SharedBlocks` keeps both: among the first `num_noted_blocks` blocks, how many have another holder.
        self.num_shared_blocks = 0
        self.num_noted_blocks = 0
        self.reread()
        seal(self)

    def admitted(self) -> None:
        """Note that it runs and holds blocks."""
        write_facts(self, _blocks=self._held.get(self.request_id, ()))

    def left(self) -> None:
        """Note that it holds no blocks any more."""
        write_facts(self, _blocks=())

    def reread(self) -> None:
        """Copy what only events change: the preemption count, and a streaming session's prompt and cap."""
        request = self._request
        write_facts(
            self, num_preemptions=request.num_preemptions, num_prompt_tokens=request.num_prompt_tokens
        )
        write_facts(self, max_tokens=self._cap())  # it depends on the prompt

    def _cap(self) -> int | None:
        """The cap on generated tokens; None when it is no more than what the model's length leaves."""
        if self._shown_cap is not None:
            return self._shown_cap or None
        cap: int = self._request.max_tokens
        return None if cap >= self._max_model_len - self.num_prompt_tokens else cap

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated and returned so far; those still in flight are not counted."""
        return len(self._output_token_ids)

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose KV is held; with async scheduling those of the step in flight are included."""
        count: int = self._request.num_computed_tokens
        return count

    @property
    def num_held_blocks(self) -> int:
        """KV blocks it holds now."""
        return len(self._held.get(self.request_id, ()))

    def __repr__(self) -> str:
        return f"VllmRequest({self.request_id!r}, computed={self.num_computed_tokens})"


class RunningRequests(Sequence[VllmRequest]):
    """The running list as views, without a copy; the engine replaces its own list from time to time.

    Args:
        scheduler: the engine's scheduler.
        views: by the engine's own object, which hashes by address, so that a lookup reads nothing of it.
    """

    __slots__ = ("_scheduler", "_view")

    def __init__(self, scheduler: Any, views: Mapping[Any, VllmRequest]) -> None:
        self._scheduler = scheduler
        self._view = views.__getitem__

    def __len__(self) -> int:
        return len(self._scheduler.running)

    @overload
    def __getitem__(self, index: int) -> VllmRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[VllmRequest]: ...
    def __getitem__(self, index: int | slice) -> VllmRequest | list[VllmRequest]:
        chosen = self._scheduler.running[index]
        return list(map(self._view, chosen)) if isinstance(index, slice) else self._view(chosen)

    def __iter__(self) -> Iterator[VllmRequest]:
        return map(self._view, list(self._scheduler.running))
