"""The open loop: every request is sent at its own absolute time, whatever became of the others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from types import SimpleNamespace

import aiohttp

from bidkv.experiments.load_samples import Sample
from bidkv.experiments.request_bodies import PATHS, Dialect, Prepared, tokens_so_far

LEAD_S = 0.2
"""Seconds from now to the start of a run, so that a request due at 0 s is not late already."""

_LONGEST_EVENT = 1 << 20
"""Bytes of the longest server-sent event that is read."""


async def replay(
    base_url: str,
    dialect: Dialect,
    prepared: Sequence[Prepared],
    drain_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[float, list[Sample]]:
    """Send every request when it is due and record what comes back.

    No request is ever retried or held back: connections are not limited, so a server that stalls makes later
    requests wait in the server, not in the client.

    Args:
        base_url: of the server, without a path.
        dialect: of the server's requests.
        prepared: in order of `due_s`.
        drain_s: seconds to wait after the last request was due; what is unfinished then is cancelled and
            recorded as failed.
        clock: seconds, monotonic, shared by all processes of the machine.

    Returns:
        The start on the clock, and a sample for each request.
    """
    samples = [Sample(p.request_id, p.due_s) for p in prepared]
    async with open_session(clock) as session:
        url = base_url + PATHS[dialect]
        await touch_server(session, base_url)
        start_s = clock() + LEAD_S
        tasks = []
        for request, sample in zip(prepared, samples, strict=True):
            wait_s = start_s + request.due_s - clock()
            if wait_s > 0.0:
                await asyncio.sleep(wait_s)
            exchange = _exchange(session, url, dialect, request, sample, start_s, clock)
            tasks.append(asyncio.create_task(exchange))
        last_s = prepared[-1].due_s if prepared else 0.0
        left_s = max(start_s + last_s + drain_s - clock(), 0.0)
        if tasks:
            await asyncio.wait(tasks, timeout=left_s)
        for task, sample in zip(tasks, samples, strict=True):
            if not task.done():
                task.cancel()
                sample.error = f"not finished {drain_s:g} s after the last request was due"
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end, sample in zip(ends, samples, strict=True):
            if isinstance(end, Exception):  # a bug of the client must not look like a silent server
                sample.error = f"client: {end!r}"
    return start_s, samples


def open_session(clock: Callable[[], float]) -> aiohttp.ClientSession:
    """Return an HTTP session without limits and timeouts: a run ends by its own deadline alone.

    A request's `trace_request_ctx` is a sample and the run's start; the sample's `sent_s` is set when the
    request's headers leave.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=3600),
        timeout=aiohttp.ClientTimeout(total=None),
        trace_configs=[_record_send_times(clock)],
        read_bufsize=_LONGEST_EVENT,
    )


async def touch_server(session: aiohttp.ClientSession, base_url: str) -> None:
    """Make one exchange that does not count, so that set-up work does not make the first request late."""
    with suppress(aiohttp.ClientError):
        # Not /health: SGLang answers that by generating a token.
        async with session.get(f"{base_url}/v1/models", trace_request_ctx=None) as response:
            await response.read()


def _record_send_times(clock: Callable[[], float]) -> aiohttp.TraceConfig:
    """Record the time at which headers really leave, after any wait for a connection."""

    async def sent(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        if context.trace_request_ctx is not None:
            sample, start_s = context.trace_request_ctx
            sample.sent_s = clock() - start_s

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(sent)
    return config


async def _exchange(
    session: aiohttp.ClientSession,
    url: str,
    dialect: Dialect,
    request: Prepared,
    sample: Sample,
    start_s: float,
    clock: Callable[[], float],
) -> None:
    headers = {"Content-Type": "application/json", "X-Request-Id": request.request_id}
    try:
        async with session.post(
            url, data=request.body, headers=headers, trace_request_ctx=(sample, start_s)
        ) as response:
            if response.status != 200:
                text = (await response.text())[:200]
                raise ValueError(f"HTTP {response.status}: {text}")
            await _read(response, dialect, sample, start_s, clock)
        if sample.tokens != request.tokens:
            raise ValueError(f"{sample.tokens} tokens came, {request.tokens} were asked for")
        sample.done_s = clock() - start_s
    except (aiohttp.ClientError, OSError, ValueError) as error:
        sample.error = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)


async def _read(
    response: aiohttp.ClientResponse,
    dialect: Dialect,
    sample: Sample,
    start_s: float,
    clock: Callable[[], float],
) -> None:
    """Note the tokens of an answer as they come."""
    seen = 0
    async for event in read_events(response):
        now_s = clock() - start_s
        count = tokens_so_far(dialect, json.loads(event))
        if count is not None and count > seen:
            sample.chunks.append((now_s, count - seen))
            seen = count


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of every server-sent event of an answer but the last, which is `[DONE]`.

    Raises:
        ValueError: the stream ended before that.
    """
    finished = False
    async for line in response.content:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                finished = True
            else:
                yield data
    if not finished:
        raise ValueError("the stream ended without [DONE]")
