"""Sessions over HTTP: named in three ways or not at all, `sessions` switched on while the server thrashes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.vllm.test_server import FLAGS, Server, wait_until

from vllm import __version_tuple__

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

BLOCKS = 60
SESSIONS, TURNS, AT_ONCE = 40, 5, 12
NAMED_BY_FIELD = __version_tuple__[:2] >= (0, 32)
"""Since 0.32 a request of vLLM has a field for its session."""


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--enable-prefix-caching" if flag == "--no-enable-prefix-caching" else flag for flag in FLAGS]
    made = Server(model, tmp_path_factory.mktemp("server"), flags=flags, BIDKV_STRATEGY="preempt-evict")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def name_session(number: int, *, is_last: bool) -> dict[str, Any]:
    """How a client names its session: a third by bidkv's fields, a third by vLLM's, the others not at all."""
    if number % 3 == 0:
        stated = {"bidkv_session_id": f"agent-{number}", "bidkv_gap_hint_s": 0.05}
        return {"vllm_xargs": stated | ({"bidkv_session_end": 1} if is_last else {})}
    return {"session_id": f"chat-{number}"} if number % 3 == 1 and NAMED_BY_FIELD else {}


async def converse(server: Server, client: aiohttp.ClientSession, number: int, salt: int) -> int:
    """One client: every turn repeats the conversation; return the turns that were answered."""
    draw = random.Random(f"{salt}:{number}")
    past = draw.choices(range(10, 1000), k=draw.randint(60, 120))
    for turn in range(TURNS):
        past += draw.choices(range(10, 1000), k=draw.randint(10, 30))
        body = {
            "model": str(server.model),
            "prompt": past,
            "max_tokens": draw.randint(8, 20),
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **name_session(number, is_last=turn == TURNS - 1),
        }
        if number % 10 == 9 and turn == 2:
            return turn  # this client never comes back
        async with client.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            choice = (await answer.json())["choices"][0]
        assert len(choice["token_ids"]) == body["max_tokens"]
        past += choice["token_ids"]
        await asyncio.sleep(draw.uniform(0.0, 0.05))
    return TURNS


async def serve(server: Server, salt: int) -> list[int]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(client: aiohttp.ClientSession, number: int) -> int:
        async with gate:
            return await converse(server, client, number, salt)

    async with aiohttp.ClientSession() as client:
        return await asyncio.gather(*(one(client, number) for number in range(SESSIONS)))


def gained(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[f"bidkv_{name}_total"] - before[f"bidkv_{name}_total"]


def test_sessions_are_told_or_found_and_sessions_takes_over_a_thrashing_server(server, note_figures):
    start = server.metrics()
    turns = asyncio.run(serve(server, 1))
    between = server.metrics()
    assert gained(start, between, "completions") == sum(turns)
    told = [number % 3 == 0 or (number % 3 == 1 and NAMED_BY_FIELD) for number in range(SESSIONS)]
    assert gained(start, between, "turns_told") == sum(
        count for count, is_told in zip(turns, told, strict=True) if is_told
    )
    later = sum(count - 1 for count, is_told in zip(turns, told, strict=True) if not is_told)
    assert gained(start, between, "turns_found") >= 0.99 * later
    assert gained(start, between, "lost_prefix_tokens") > 0.1 * gained(start, between, "prompt_tokens")
    assert gained(start, between, "sessions_ended") == sum(
        count == TURNS for number, count in enumerate(turns) if number % 3 == 0
    )

    server.command("sessions")
    wait_until(lambda: asyncio.run(serve_one(server)) and is_in_charge(server), 60, server.log.read_text)
    before = server.metrics()
    turns = asyncio.run(serve(server, 2))
    after = server.metrics()
    assert gained(before, after, "completions") == sum(turns)
    assert after["bidkv_failures_total"] == after["bidkv_session_failures_total"] == 0
    assert after["bidkv_adapter_failures_total"] == 0
    assert after["bidkv_hooks_in_place"] == 1
    for name, first, last in (("own order", start, between), ("sessions", before, after)):
        prompt = gained(first, last, "prompt_tokens")
        hit, lost = (gained(first, last, f"{kind}_tokens") / prompt for kind in ("prefix_hit", "lost_prefix"))
        drops = gained(first, last, "session_drops")
        note_figures(
            f"real server, {name}: {hit:.0%} of prompt tokens hit, {lost:.0%} lost, {drops:.0f} drops"
        )
    wait_until(lambda: server.metrics()["bidkv_free_blocks"] == BLOCKS - 1, 30, server.log.read_text)


def is_in_charge(server: Server) -> bool:
    return server.metrics().get("policy sessions") == 1.0


async def serve_one(server: Server) -> bool:
    """A step has to run before the engine looks at its control file."""
    body = {"model": str(server.model), "prompt": [5, 6, 7], "max_tokens": 2, "detokenize": False}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body) as answer,
    ):
        return answer.status == 200
