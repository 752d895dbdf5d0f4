"""Sessions in closed loop: the next turn arrives its gap after the previous answer's last token."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.simulator.arrivals import Arrival, SimulationError
from bidkv.simulator.content import answer_key, prompt_key

Segment = tuple[int, int]
"""(content key, tokens)"""


class _LiveSession:
    """A session that has started: which turn it is at, and what its context holds."""

    __slots__ = ("computed_tokens", "context", "context_tokens", "index", "session", "turn")

    def __init__(self, session: Session, index: int) -> None:
        self.session = session
        self.index = index
        self.turn = 0
        self.context: list[Segment] = []
        self.context_tokens = 0  # of all its segments: summing them up again would be O(turns) each turn
        self.computed_tokens = 0

    def make_arrival(self, arrival_s: float, *, tells_end: bool, tells_gap: bool) -> Arrival:
        """Return the request of the current turn and take its prompt into the context."""
        session = self.session
        turn = session.turns[self.turn]
        context = self.context
        if turn.kept_tokens is not None:
            _truncate(context, turn.kept_tokens)
            self.context_tokens = min(self.context_tokens, turn.kept_tokens)
            self.computed_tokens = min(self.computed_tokens, turn.kept_tokens)
        self.context_tokens += turn.new_tokens
        left = turn.new_tokens
        for hash_id in turn.hash_ids:
            context.append((hash_id, min(session.chunk_tokens, left)))
            left -= context[-1][1]
        if left:
            context.append((prompt_key(session.session_id, self.turn), left))
        is_last = self.turn == len(session.turns) - 1
        request = WorkloadRequest(
            request_id=f"{session.session_id}#{self.turn}",
            arrival_s=arrival_s,
            prompt_tokens=self.context_tokens,
            output_tokens=turn.output_tokens,
            max_tokens=turn.max_tokens,
            priority=session.priority,
            weight=session.weight,
            agent_id=session.agent_id,
            session_id=session.session_id,
            turn=self.turn,
            is_last_turn=is_last and tells_end,
            gap_hint_s=session.turns[self.turn + 1].gap_s if tells_gap and not is_last else None,
            content=tuple(context),
        )
        return Arrival(request, turn.new_tokens, self.computed_tokens, is_last)


class SessionSource:
    """Turns sessions into requests while an engine runs, as their clients would.

    Arrivals at the same instant come in the order of the sessions.

    Args:
        sessions: in the order in which they start.
        arrivals: when sessions start.
        patience_s: a client gives up a turn, and its session with it, that is not complete after this many
            seconds; None means that clients never give up.
        tells_ends: whether clients say with the last turn that it is the last.
        tells_sessions: whether clients name the session of a request.
        tells_gaps: whether clients say with every turn when the next one comes, exactly.

    Raises:
        ValueError: a session without a start time where `arrivals` needs one, or a patience of 0 or less.
        SimulationError: two sessions have the same id.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        arrivals: SessionArrivals,
        *,
        patience_s: float | None = None,
        tells_ends: bool = True,
        tells_sessions: bool = True,
        tells_gaps: bool = False,
    ) -> None:
        if patience_s is not None and not patience_s > 0.0:
            raise ValueError(f"patience_s must be above 0 or None, got {patience_s}")
        self._sessions = sessions
        self._patience_s = patience_s
        self.tells_sessions = tells_sessions
        self._tells_ends = tells_ends and tells_sessions
        self._tells_gaps = tells_gaps
        self._live: dict[str, _LiveSession] = {}
        # Of a turn only the session's place in the list and the turn's number are kept until it arrives.
        self._due: list[tuple[float, int, int]] = []
        self._waiting_starts: deque[int] = deque()
        self._give_ups: list[tuple[float, int, str]] = []
        ids: set[str] = set()
        for index, start_s in enumerate(arrivals.start_times(sessions)):
            session_id = sessions[index].session_id
            if session_id in ids:
                raise SimulationError(f"session {session_id!r} occurs twice: ids must be unique")
            ids.add(session_id)
            if start_s is None:
                self._waiting_starts.append(index)
            else:
                self._due.append((start_s, index, 0))
        heapq.heapify(self._due)

    @property
    def next_arrival_s(self) -> float:
        """When the next turn arrives as far as is known now; infinity when none is known."""
        return self._due[0][0] if self._due else math.inf

    @property
    def next_give_up_s(self) -> float:
        """When the next client gives up unless its turn is complete by then; infinity for never."""
        return self._give_ups[0][0] if self._give_ups else math.inf

    def take(self) -> Arrival:
        """Return the turn that arrives next."""
        arrival_s, index, turn = heapq.heappop(self._due)
        session = self._sessions[index]
        live = self._live.get(session.session_id)
        if live is None:
            live = self._live[session.session_id] = _LiveSession(session, index)
        live.turn = turn
        arrival = live.make_arrival(arrival_s, tells_end=self._tells_ends, tells_gap=self._tells_gaps)
        if self._patience_s is not None:
            give_up = (arrival_s + self._patience_s, index, arrival.request.request_id)
            heapq.heappush(self._give_ups, give_up)
        return arrival

    def take_given_up(self) -> str:
        """Return the id of the turn whose client gives up next; the turn may be complete already."""
        return heapq.heappop(self._give_ups)[2]

    def close(self, request: WorkloadRequest, now_s: float, output_tokens: int, *, completed: bool) -> None:
        """A turn left the engine: its session goes on after its gap, or ends and makes room for the next."""
        live = self._live[request.session_id]
        session = live.session
        if completed and live.turn < len(session.turns) - 1:
            # The KV of an answer's last token is computed with the next turn.
            live.computed_tokens = request.prompt_tokens + output_tokens - 1
            live.context.append((answer_key(session.session_id, live.turn), output_tokens))
            live.context_tokens += output_tokens
            gap_s = session.turns[live.turn + 1].gap_s
            heapq.heappush(self._due, (now_s + gap_s, live.index, live.turn + 1))
        else:
            del self._live[request.session_id]
            if self._waiting_starts:
                heapq.heappush(self._due, (now_s, self._waiting_starts.popleft(), 0))


def _truncate(context: list[Segment], tokens: int) -> None:
    """Keep the first `tokens` tokens of a context; all of it when it is shorter."""
    for position, (key, length) in enumerate(context):
        if tokens <= length:
            context[position:] = [(key, tokens)] if tokens else []
            return
        tokens -= length
