"""A request as the simulated engines hold it; it satisfies `RequestView` without a wrapper."""

from __future__ import annotations

from bidkv.protocol.requests import WorkloadRequest


class SimRequest:
    """One live request. Names with an underscore belong to the engine; policies must not use them.

    The others can be read and not written: a policy that tries fails, as it would in a real engine's view.

    Args:
        source: the request of the workload.
        model_len: longest prompt and output of the engine, in tokens.
        new_tokens: prompt tokens that its session's past does not hold; None for a single request.
        past_tokens: prompt tokens of its session's past.
        ends_session: whether it is the last turn of its session.
        tells_session: whether its client names its session.
    """

    __slots__ = (
        "_arrival_s",
        "_block_keys",
        "_blocks",
        "_cached_tokens",
        "_coming",
        "_deadline_s",
        "_ends_session",
        "_first_token_s",
        "_given_back",
        "_high_tokens",
        "_labeled_blocks",
        "_last_token_s",
        "_life_start",
        "_limit_tokens",
        "_max_tokens",
        "_new_tokens",
        "_num_computed_tokens",
        "_num_held_blocks",
        "_num_preemptions",
        "_num_prompt_tokens",
        "_num_tokens",
        "_past_tokens",
        "_prefilling",
        "_request_id",
        "_segments",
        "_session_id",
        "_shared_tokens",
        "_source",
        "_target_tokens",
        "_turn",
    )

    def __init__(
        self,
        source: WorkloadRequest,
        model_len: int,
        *,
        new_tokens: int | None = None,
        past_tokens: int = 0,
        ends_session: bool = False,
        tells_session: bool = True,
    ) -> None:
        self._request_id = source.request_id
        self._arrival_s = source.arrival_s
        self._num_prompt_tokens = source.prompt_tokens
        self._num_tokens = source.prompt_tokens
        self._num_computed_tokens = 0
        self._num_held_blocks = 0
        self._num_preemptions = 0
        self._max_tokens = source.max_tokens
        self._deadline_s = None if source.deadline_ms is None else source.arrival_s + source.deadline_ms / 1e3
        self._session_id = source.session_id if tells_session else ""
        self._turn = source.turn if tells_session else 0
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
    def request_id(self) -> str:
        """Unique among live requests."""
        return self._request_id

    @property
    def arrival_s(self) -> float:
        """When it arrived, on the simulated clock."""
        return self._arrival_s

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self._num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens known so far: the prompt and what was generated."""
        return self._num_tokens

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose KV is computed and held."""
        return self._num_computed_tokens

    @property
    def num_held_blocks(self) -> int:
        """KV blocks that it holds."""
        return self._num_held_blocks

    @property
    def num_preemptions(self) -> int:
        """How often it was preempted."""
        return self._num_preemptions

    @property
    def max_tokens(self) -> int | None:
        """The cap on its output that its sender stated, or None."""
        return self._max_tokens

    @property
    def priority(self) -> int:
        """A lower number is more important."""
        return self._source.priority

    @property
    def deadline_s(self) -> float | None:
        """Time by which it must be complete, or None."""
        return self._deadline_s

    @property
    def weight(self) -> float:
        """Relative worth of finishing it."""
        return self._source.weight

    @property
    def agent_id(self) -> str:
        """Its sender; empty when unknown."""
        return self._source.agent_id

    @property
    def session_id(self) -> str:
        """The session that its client named; empty when it named none."""
        return self._session_id

    @property
    def turn(self) -> int:
        """Number of the turn in its session, from 0."""
        return self._turn

    @property
    def is_last_turn(self) -> bool:
        """Whether its client said that no turn follows."""
        return self._source.is_last_turn

    @property
    def gap_hint_s(self) -> float | None:
        """Seconds that its client expects until the next turn, or None."""
        return self._source.gap_hint_s

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self._num_tokens - self._num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Leading positions that were cached when it entered last."""
        return self._life_start

    def __repr__(self) -> str:
        return f"SimRequest({self._request_id!r}, computed={self._num_computed_tokens}/{self._num_tokens})"
