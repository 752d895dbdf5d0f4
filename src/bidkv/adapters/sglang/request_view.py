"""SGLang's requests as a policy sees them."""

from __future__ import annotations

from typing import Any, Protocol

from bidkv.adapters.client_values import ClientValues, session_name
from bidkv.protocol.read_only import seal


class EngineFacts(Protocol):
    """What a request's view reads of its engine."""

    low_values_first: bool
    max_request_tokens: int
    max_pool_tokens: int
    block_size: int

    @property
    def now_s(self) -> float:
        """Seconds on the adapter's clock."""


class SglangRequest:
    """A live `Req` as a `RequestView`. What belongs to SGLang has a name with an underscore.

    What the client states beyond SGLang's own fields comes from `custom_params` of the sampling parameters:
    see :class:`bidkv.adapters.client_values.ClientValues`.

    Attributes:
        waiting: whether it is in the queue (an admitted request stays in SGLang's list until the pass ends).
        admission: number of its last admission; orders running requests as they entered.
    """

    __slots__ = (
        "_engine",
        "_req",
        "_shown_cap",
        "admission",
        "agent_id",
        "arrival_s",
        "deadline_s",
        "gap_hint_s",
        "is_last_turn",
        "num_cached_tokens",
        "priority",
        "request_id",
        "session_id",
        "turn",
        "waiting",
        "weight",
    )

    def __init__(self, req: Any, engine: EngineFacts) -> None:
        self._req = req
        self.request_id: str = req.rid
        self.arrival_s = arrival_s = engine.now_s
        self.waiting = True
        self.admission = 0
        self.num_cached_tokens = 0
        self._engine = engine
        # Which values are more important is the server's choice; here a lower number always is.
        value = 0 if req.priority is None else int(req.priority)
        self.priority = value if engine.low_values_first else -value
        stated = ClientValues(req.sampling_params.custom_params)
        self.deadline_s = stated.read_deadline_s(arrival_s)
        self.weight = stated.weight
        self.agent_id = stated.agent_id
        self.session_id = stated.session_id or _read_session_name(req)
        self.turn = 0
        self.gap_hint_s = stated.gap_hint_s
        self.is_last_turn = stated.is_last_turn
        self._shown_cap = stated.shown_cap
        seal(self)

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self._req.origin_input_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far; under overlap scheduling the one in flight is not counted."""
        return len(self._req.output_ids)

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose KV is held now; of a finished request, those it had when it finished."""
        kv = self._req.kv
        if kv.holds_kv:
            return int(kv.kv_committed_len)
        if self._req.finished():
            return max(0, len(self._req.origin_input_ids) + len(self._req.output_ids) - 1)
        return 0

    @property
    def max_tokens(self) -> int | None:
        """The cap on generated tokens; None when it is no more than what the context and the pool leave.

        SGLang lowers a cap on arrival to what the empty pool could hold beside the prompt.
        """
        if self._shown_cap is not None:
            return self._shown_cap or None
        cap = int(self._req.sampling_params.max_new_tokens)
        engine, prompt = self._engine, self.num_prompt_tokens
        page = engine.block_size
        room = min(
            engine.max_request_tokens - prompt - 1,
            engine.max_pool_tokens - -(-prompt // page) * page - page - 1,
        )
        return None if cap >= room else cap

    @property
    def num_preemptions(self) -> int:
        """How often it was retracted."""
        return int(self._req.retraction_count)

    @property
    def num_held_blocks(self) -> int:
        """Pages it holds, shared ones included."""
        return -(-int(self._req.kv.kv_allocated_len) // self._engine.block_size)


def _read_session_name(req: Any) -> str:
    """Return SGLang's own session of a request: its radix cache's, or that of the older session API."""
    name = session_name(getattr(req, "session_id", None))
    return name or session_name(getattr(getattr(req, "session", None), "session_id", None))
