"""A request as the simulated engines hold it; it satisfies `RequestView` without a wrapper."""

from __future__ import annotations

from bidkv.protocol.requests import WorkloadRequest


class SimRequest:
    """One live request. Names with an underscore belong to the engine; policies must not read them."""

    __slots__ = (
        "_block_keys",
        "_blocks",
        "_cached_tokens",
        "_coming",
        "_ends_session",
        "_first_token_s",
        "_given_back",
        "_high_tokens",
        "_labeled_blocks",
        "_last_token_s",
        "_life_start",
        "_limit_tokens",
        "_new_tokens",
        "_past_tokens",
        "_prefilling",
        "_segments",
        "_shared_tokens",
        "_source",
        "_target_tokens",
        "agent_id",
        "arrival_s",
        "deadline_s",
        "gap_hint_s",
        "is_last_turn",
        "max_tokens",
        "num_computed_tokens",
        "num_held_blocks",
        "num_preemptions",
        "num_prompt_tokens",
        "num_tokens",
        "priority",
        "request_id",
        "session_id",
        "turn",
        "weight",
    )

    def __init__(
        self,
        source: WorkloadRequest,
        model_len: int,
        *,
        new_tokens: int | None = None,
        past_tokens: int = 0,
        ends_session: bool = False,
    ) -> None:
        self.request_id = source.request_id
        self.arrival_s = source.arrival_s
        self.num_prompt_tokens = source.prompt_tokens
        self.num_tokens = source.prompt_tokens
        self.num_computed_tokens = 0
        self.num_held_blocks = 0
        self.num_preemptions = 0
        self.max_tokens = source.max_tokens
        self.priority = source.priority
        self.deadline_s = None if source.deadline_ms is None else source.arrival_s + source.deadline_ms / 1e3
        self.weight = source.weight
        self.agent_id = source.agent_id
        self.session_id = source.session_id
        self.turn = source.turn
        self.is_last_turn = source.is_last_turn
        self.gap_hint_s = source.gap_hint_s
        self._source = source
        output = (
            source.output_tokens
            if source.max_tokens is None
            else min(source.output_tokens, source.max_tokens)
        )
        self._target_tokens = min(source.prompt_tokens + output, model_len)
        # The longest it may become as far as the engine knows; an earlier end shows only in the last token.
        cap = model_len if source.max_tokens is None else source.prompt_tokens + source.max_tokens
        self._limit_tokens = min(cap, model_len)
        # Scheduled steps of the current life whose output token is still to come.
        self._coming = 0
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None
        # What is known of its session beside its prompt, and what of it was cached when it first entered.
        self._new_tokens = new_tokens
        self._past_tokens = past_tokens
        self._ends_session = ends_session
        self._cached_tokens: int | None = None
        # The highest position ever computed, and the position where the current life began to compute.
        self._high_tokens = 0
        self._life_start = 0
        self._prefilling = False
        # Blocks that its sliding windows gave back in its current life.
        self._given_back = 0
        # With prefix caching only: block ids held, how many of them have a key, the keys known so far, and
        # the segments (end, node of the content tree) that the further keys come from.
        self._blocks: list[int] = []
        self._labeled_blocks = 0
        self._block_keys: list[tuple[int, int]] = []
        self._segments: list[tuple[int, int]] = []
        # Leading prompt tokens under a trace's hash ids: other sessions may have them too.
        self._shared_tokens = 0

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Leading positions that were cached when it entered last."""
        return self._life_start

    def __repr__(self) -> str:
        return f"SimRequest({self.request_id!r}, computed={self.num_computed_tokens}/{self.num_tokens})"
