"""Sessions on a real server with short memory while things go wrong; only with `--campaign`.

Clients vanish between turns and within one; the control file switches policies that fail in and out and
throws the kill switch. Before that a server with ample memory serves the same sessions by vLLM's own rules.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.faulty_policies import FAULTS, SESSION_FAULTS
from tests.vllm.test_server import FLAGS, Server, wait_until
from tests.vllm.test_sessions_server import gained, is_in_charge, name_session, serve_one

pytestmark = [pytest.mark.vllm, pytest.mark.campaign, pytest.mark.timeout(5400)]

SESSIONS, TURNS, AT_ONCE = 100, 20, 14
AMPLE_BLOCKS, SHORT_BLOCKS = 2500, 60
COMMANDS = ("off", "on", "sessions", "fair", *FAULTS, *SESSION_FAULTS)
FAULT_EVERY_TURNS = 12


@dataclass
class Served:
    """What came of all sessions.

    Attributes:
        answers: the tokens of every turn that was answered, by session and turn.
        begun: by session, the turns whose request was sent.
        commands: how often the control file said what.
    """

    answers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    begun: Counter[int] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)


class Clients:
    """All clients of one server in closed loop.

    Args:
        server: the server.
        hang_up: whether every tenth client vanishes between turns and another tenth within one.
        disturb: given the number of turns answered so far, called after each.
    """

    def __init__(
        self, server: Server, *, hang_up: bool, disturb: Callable[[Served], None] = lambda served: None
    ) -> None:
        self._server = server
        self._hang_up = hang_up
        self._disturb = disturb
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.served = Served()

    async def serve(self) -> Served:
        """Serve every session to its end."""
        timeout = aiohttp.ClientTimeout(total=1200)
        async with aiohttp.ClientSession(timeout=timeout) as self._http:
            await asyncio.gather(*map(self._converse, range(SESSIONS)))
        return self.served

    async def _converse(self, number: int) -> None:
        draw = random.Random(f"client {number}")
        past = draw.choices(range(10, 1000), k=draw.randint(60, 120))
        vanishes = draw.randint(1, TURNS - 2)
        async with self._gate:
            for turn in range(TURNS):
                past += draw.choices(range(10, 1000), k=draw.randint(8, 24))
                body = {
                    "model": str(self._server.model),
                    "prompt": past,
                    "max_tokens": draw.randint(6, 16),
                    "temperature": 0,
                    "ignore_eos": True,
                    "return_token_ids": True,
                    **name_session(number, is_last=turn == TURNS - 1),
                }
                gap_s = draw.uniform(0.0, 0.1)
                is_gone = self._hang_up and turn == vanishes
                if is_gone and number % 10 == 9:
                    return
                self.served.begun[number] += 1
                answer = asyncio.create_task(self._ask(body))
                if is_gone and number % 10 == 4:
                    await asyncio.wait([answer], timeout=0.2)
                    answer.cancel()
                    await asyncio.gather(answer, return_exceptions=True)
                    return
                past += await answer
                self.served.answers[number, turn] = past[-body["max_tokens"] :]
                self._disturb(self.served)
                await asyncio.sleep(gap_s)

    async def _ask(self, body: dict[str, Any]) -> list[int]:
        url = f"http://127.0.0.1:{self._server.port}/v1/completions"
        async with self._http.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            tokens: list[int] = (await answer.json())["choices"][0]["token_ids"]
        assert len(tokens) == body["max_tokens"]
        return tokens


def make_server(model: Path, folder: Path, blocks: int, **environment: str) -> Server:
    flags = [
        {"--no-enable-prefix-caching": "--enable-prefix-caching", "60": str(blocks)}.get(flag, flag)
        for flag in FLAGS
    ]
    return Server(model, folder, flags=flags, **environment)


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[int]]:
    """Every answer of a server with ample memory."""
    folder = tmp_path_factory.mktemp("ample")
    server = make_server(model, folder, AMPLE_BLOCKS, BIDKV_STRATEGY="preempt-evict")
    server.start()
    try:
        served = asyncio.run(Clients(server, hang_up=False).serve())
    finally:
        server.stop()
    return served.answers


def install_faults(folder: Path) -> str:
    """Make the faulty policies known to every process that has `folder` on its path, as a package does."""
    info = folder / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    lines = [
        f"{name} = tests.faulty_policies:{kind.__name__}" for name, kind in (FAULTS | SESSION_FAULTS).items()
    ]
    (info / "entry_points.txt").write_text("\n".join(["[bidkv.policies]", *lines, ""]))
    return str(folder)


def test_nothing_is_lost_while_clients_vanish_and_policies_fail(model, expected, tmp_path, note_figures):
    assert len(expected) == SESSIONS * TURNS
    server = make_server(
        model,
        tmp_path,
        SHORT_BLOCKS,
        BIDKV_STRATEGY="sessions",
        PYTHONPATH=":".join([install_faults(tmp_path / "faulty"), *repository_paths()]),
    )
    deck: list[str] = []
    draw = random.Random(12)

    def disturb(served: Served) -> None:
        if len(served.answers) % FAULT_EVERY_TURNS == 0:
            if not deck:  # every command as often as every other, and `sessions` after each
                deck.extend(
                    command for each in draw.sample(COMMANDS, len(COMMANDS)) for command in ("sessions", each)
                )
            command = deck.pop()
            served.commands[command] += 1
            server.command(command)

    server.start()
    try:
        start = server.metrics()
        served = asyncio.run(Clients(server, hang_up=True, disturb=disturb).serve())
        server.command("sessions")
        wait_until(lambda: asyncio.run(serve_one(server)) and is_in_charge(server), 60, server.log.read_text)
        wait_until(
            lambda: server.metrics()["bidkv_free_blocks"] == SHORT_BLOCKS - 1, 60, server.log.read_text
        )
        after = server.metrics()
    finally:
        server.stop()

    assert served.answers == {turn: expected[turn] for turn in served.answers}
    stayed = [number for number in range(SESSIONS) if number % 10 not in (4, 9)]
    assert all((number, turn) in served.answers for number in stayed for turn in range(TURNS))
    assert len(served.begun) == SESSIONS
    assert set(served.commands) == set(COMMANDS)
    begun = sum(served.begun.values())
    names = ("failures", "kill_switch_activations", "aborts", "session_drops", "turns_found", "turns_told")
    figures = {name: gained(start, after, name) for name in names}
    preempted = sum(gained(start, after, f"preemptions_by_{who}") for who in ("policy", "engine"))
    note_figures(
        f"real server: {begun} turns of {SESSIONS} sessions, {len(served.answers)} answered, all as with "
        f"ample memory; {preempted:.0f} preemptions, {figures}"
    )
    assert figures["failures"] >= 4
    assert figures["kill_switch_activations"] >= 2
    assert figures["session_drops"] > 0
    assert preempted > 0
    untold = [number for number in range(SESSIONS) if not name_session(number, is_last=False)]
    later = sum(served.begun[number] - 1 for number in untold)
    assert later * 0.99 <= figures["turns_found"] <= later
    told = begun - sum(served.begun[number] for number in untold)
    # A client that hung up may have done so before its request was there.
    assert told - SESSIONS // 10 <= figures["turns_told"] <= told
    assert after["bidkv_running_requests"] == after["bidkv_waiting_requests"] == 0
    assert after["bidkv_session_failures_total"] == after["bidkv_adapter_failures_total"] == 0
    assert after["bidkv_hooks_in_place"] == 1


def repository_paths() -> list[str]:
    """Where `tests` and `bidkv` lie, for a server's processes."""
    root = Path(__file__).parents[2]
    return [str(root), str(root / "src")]
