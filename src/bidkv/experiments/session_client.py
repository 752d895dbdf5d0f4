"""The closed loop: a turn is sent its gap after the previous answer's last token."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from bidkv.experiments.load_client import LEAD_S, open_session, read_events, touch_server
from bidkv.experiments.load_samples import LoadReport
from bidkv.experiments.session_bodies import Answer, Conversations
from bidkv.experiments.session_samples import SessionSamples, TurnSample
from bidkv.results.gaps import TokenGaps
from bidkv.simulator import SessionSource
from bidkv.simulator.arrivals import Arrival

_LONGEST_WAIT_S = 60.0
"""Longest sleep of the loop in seconds; it looks again earlier when an answer ends."""


class SessionClient:
    """Applies sessions to a server.

    No turn is retried. A turn that fails ends its session, and the next session starts where the arrivals say
    so, as when a client gives up.

    Args:
        base_url: of the server, without a path.
        source: the sessions, and when their turns are due.
        conversations: writes the requests and remembers the answers.
        duration_s: the run is cut after this many seconds; None: it lasts until all sessions have ended.
        clock: seconds, monotonic, shared by all processes of the machine.
    """

    def __init__(
        self,
        base_url: str,
        source: SessionSource,
        conversations: Conversations,
        duration_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = base_url
        self._source = source
        self._conversations = conversations
        self._duration_s = math.inf if duration_s is None else duration_s
        self._clock = clock
        self._turns: list[TurnSample] = []
        self._gaps = TokenGaps()
        self._live: set[asyncio.Task[None]] = set()
        self._answer_ended = asyncio.Event()
        self._start_s = 0.0

    async def run(self) -> SessionSamples:
        """Apply the load until it is cut, or until all sessions have ended; return what was seen."""
        source = self._source
        async with open_session(self._clock) as session:
            await touch_server(session, self._base_url)
            self._start_s = self._clock() + LEAD_S
            while (now_s := self._now_s()) < self._duration_s:
                due_s = source.next_arrival_s
                if due_s <= now_s:
                    self._send(session, source.take())
                elif due_s == math.inf and not self._live:
                    break
                else:
                    await self._wait(min(due_s, self._duration_s) - now_s)
            cut_s = min(self._now_s(), self._duration_s)
            await self._cancel()
        turns = [turn for turn in self._turns if turn.done_s is not None or turn.error]
        lags = LoadReport.summarize_lags(
            self._start_s,
            [(turn.intended_s, turn.sent_s) for turn in self._turns],
            sum(turn.done_s is not None for turn in turns),
        )
        return SessionSamples(lags, cut_s, self._gaps, turns)

    def _now_s(self) -> float:
        return self._clock() - self._start_s

    async def _wait(self, seconds: float) -> None:
        self._answer_ended.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answer_ended.wait(), min(seconds, _LONGEST_WAIT_S))

    def _send(self, session: aiohttp.ClientSession, arrival: Arrival) -> None:
        request = arrival.request
        sample = TurnSample(
            request.request_id,
            request.session_id,
            request.turn,
            request.arrival_s,
            arrival.new_tokens or 0,
            arrival.past_tokens,
            arrival.ends_session,
            request.prompt_tokens,
        )
        self._turns.append(sample)
        task = asyncio.create_task(self._exchange(session, arrival, sample))
        self._live.add(task)
        task.add_done_callback(self._live.discard)

    async def _cancel(self) -> None:
        """Cancel what has not ended; the server sees its clients leave."""
        live = list(self._live)
        for task in live:
            task.cancel()
        await asyncio.gather(*live, return_exceptions=True)

    async def _exchange(self, session: aiohttp.ClientSession, arrival: Arrival, sample: TurnSample) -> None:
        request, answer = arrival.request, Answer()
        headers = {"Content-Type": "application/json", "X-Request-Id": request.request_id}
        try:
            async with session.post(
                self._base_url + self._conversations.path,
                data=self._conversations.write_body(request),
                headers=headers,
                trace_request_ctx=(sample, self._start_s),
            ) as response:
                if response.status != 200:
                    raise ValueError(f"HTTP {response.status}: {(await response.text())[:200]}")
                await self._read(response, answer, sample)
            if sample.tokens != request.output_tokens:
                raise ValueError(f"{sample.tokens} tokens came, {request.output_tokens} were asked for")
            sample.done_s = self._now_s()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a bug of the client must not look like a silent server
            sample.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self._close(arrival, answer, sample)

    def _close(self, arrival: Arrival, answer: Answer, sample: TurnSample) -> None:
        request, completed = arrival.request, sample.done_s is not None
        if completed:
            self._conversations.keep_answer(request, answer)
        if arrival.ends_session or not completed:
            self._conversations.forget(request.session_id)
        now_s = sample.last_token_s if completed and sample.last_token_s is not None else self._now_s()
        self._source.close(request, now_s, answer.tokens, completed=completed)
        self._answer_ended.set()

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer, sample: TurnSample) -> None:
        """Read an answer to its end.

        Raises:
            ValueError: an error of the server, or a stream that ends too early.
        """
        try:
            async for event in read_events(response):
                new = self._conversations.take_event(json.loads(event), answer)
                if new:
                    self._note_tokens(sample, new)
        finally:
            sample.prompt_tokens = answer.prompt_tokens or sample.prompt_tokens
            sample.cached_tokens = answer.cached_tokens

    def _note_tokens(self, sample: TurnSample, new: int) -> None:
        now_s = self._now_s()
        if sample.last_token_s is None:
            sample.first_token_s = now_s
            self._gaps.add(0.0, new - 1)
        else:
            self._gaps.add(now_s - sample.last_token_s)
            self._gaps.add(0.0, new - 1)
        sample.last_token_s = now_s
        sample.tokens += new
