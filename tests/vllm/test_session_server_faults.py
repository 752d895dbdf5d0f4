"""Sessions on a real server with short memory while things go wrong; only with `--campaign`.

Clients vanish between turns and within one; the control file switches policies that fail in and out and
throws the kill switch. A command stays until a number of turns were answered since the server took it, so
that a slow machine meets as many as a fast one; a policy that fails stays longer, until it did. Before that a
server with ample memory serves the same sessions by vLLM's own rules.
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

SESSIONS, TURNS, AT_ONCE = 100, 20, 24
GONE_WITHIN, GONE_BETWEEN = range(4, SESSIONS, 10), range(9, SESSIONS, 10)
AMPLE_BLOCKS, SHORT_BLOCKS = 2500, 44
COMMANDS = ("off", "on", "sessions", "fair", *FAULTS, *SESSION_FAULTS)
TURNS_PER_COMMAND, MOST_TURNS = 8, 60
UNWISE = {"abstains", "shut-gate", "drops-everything"}
FAILING = (FAULTS.keys() | SESSION_FAULTS.keys()) - UNWISE
"""Those whose answers are faults."""


@dataclass
class Served:
    """What came of all sessions.

    Attributes:
        answers: the tokens of every turn that was answered, by session and turn.
        begun: by session, the turns whose request was sent.
    """

    answers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    begun: Counter[int] = field(default_factory=Counter)


class Clients:
    """All clients of one server in closed loop.

    Args:
        server: the server.
        hang_up: whether a tenth of the clients vanishes between turns and another tenth within one.
        disturb: called after each turn that was answered.
    """

    def __init__(self, server: Server, *, hang_up: bool, disturb: Callable[[], None] = lambda: None) -> None:
        self._server = server
        self._url = f"http://127.0.0.1:{server.port}/v1/completions"
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
        vanishes = draw.randint(1, TURNS // 2)
        async with self._gate:
            for turn in range(TURNS):
                past += draw.choices(range(10, 1000), k=draw.randint(4, 16))
                body = {
                    "model": str(self._server.model),
                    "prompt": past,
                    "max_tokens": draw.randint(6, 28),
                    "temperature": 0,
                    "ignore_eos": True,
                    "return_token_ids": True,
                    **name_session(number, is_last=turn == TURNS - 1),
                }
                gap_s = draw.uniform(0.0, 0.05)
                is_gone = self._hang_up and turn == vanishes
                if is_gone and number in GONE_BETWEEN:
                    return
                self.served.begun[number] += 1
                if is_gone and number in GONE_WITHIN:
                    await self._hang_up_within(body)
                    return
                past += await self._ask(body)
                self.served.answers[number, turn] = past[-body["max_tokens"] :]
                self._disturb()
                await asyncio.sleep(gap_s)

    async def _hang_up_within(self, body: dict[str, Any]) -> None:
        """Ask for as long an answer as can be and close the connection when its first token is there."""
        body |= {"max_tokens": 1000 - len(body["prompt"]), "stream": True}
        async with self._http.post(self._url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            assert b"token_ids" in await answer.content.readline()

    async def _ask(self, body: dict[str, Any]) -> list[int]:
        async with self._http.post(self._url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            tokens: list[int] = (await answer.json())["choices"][0]["token_ids"]
        assert len(tokens) == body["max_tokens"]
        return tokens


class Disturber:
    """Writes one command after the other into a server's control file, by the turns that were answered.

    Args:
        server: the server; its log says which commands it took.

    Attributes:
        commands: how often the control file said what.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._draw = random.Random(12)
        self._deck: list[str] = []
        self._turns = self._failures = 0
        self._current = ""
        self.commands: Counter[str] = Counter()

    def after_turn(self) -> None:
        """A turn was answered: the next command is due when enough were since the last was taken."""
        if not self.is_taken():
            return
        self._turns += 1
        waits = self._current in FAILING and self._count_failures() == self._failures
        if self._turns >= (MOST_TURNS if waits else TURNS_PER_COMMAND):
            self.write(self._next())

    def _next(self) -> str:
        if not self._deck:  # every command as often as every other, and `sessions` after each
            for command in self._draw.sample(COMMANDS, len(COMMANDS)):
                self._deck += ["sessions", command]
        return self._deck.pop()

    def write(self, command: str) -> None:
        """Write a command; the one before must have been taken."""
        self._turns = 0
        self._failures = self._count_failures()
        self._current = command
        self.commands[command] += 1
        self._server.command(command)

    def is_taken(self) -> bool:
        """Whether the server carried out all that was written."""
        return self._server.log.read_text().count("control file says") == self.commands.total()

    def _count_failures(self) -> int:
        return self._server.log.read_text().count("is switched off")


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
    disturber = Disturber(server)

    server.start()
    try:
        start = server.metrics()
        served = asyncio.run(Clients(server, hang_up=True, disturb=disturber.after_turn).serve())
        wait_until(lambda: asyncio.run(serve_one(server)) and disturber.is_taken(), 60, server.log.read_text)
        disturber.write("sessions")
        wait_until(lambda: asyncio.run(serve_one(server)) and is_in_charge(server), 60, server.log.read_text)
        wait_until(
            lambda: server.metrics()["bidkv_free_blocks"] == SHORT_BLOCKS - 1, 60, server.log.read_text
        )
        after = server.metrics()
    finally:
        server.stop()

    assert served.answers == {turn: expected[turn] for turn in served.answers}
    stayed = set(range(SESSIONS)) - {*GONE_WITHIN, *GONE_BETWEEN}
    assert all((number, turn) in served.answers for number in stayed for turn in range(TURNS))
    assert len(served.begun) == SESSIONS
    commands = disturber.commands
    assert set(commands) == set(COMMANDS)
    begun = sum(served.begun.values())
    names = (
        "completions",
        "failures",
        "kill_switch_activations",
        "aborts",
        "session_drops",
        "turns_found",
        "turns_told",
    )
    figures = {name: gained(start, after, name) for name in names}
    preempted = sum(gained(start, after, f"preemptions_by_{who}") for who in ("policy", "engine"))
    note_figures(
        f"real server: {begun} turns of {SESSIONS} sessions, {len(served.answers)} answered, all as with "
        f"ample memory; {commands.total()} commands; {preempted:.0f} preemptions, {figures}"
    )
    log = server.log.read_text()
    switched_off = {name for name in FAILING if f"policy '{name}' is switched off" in log}
    assert switched_off == FAILING
    assert figures["failures"] >= len(FAILING)
    assert figures["kill_switch_activations"] == commands["off"] >= 2
    assert figures["session_drops"] > 0
    assert preempted > 0
    untold = [number for number in range(SESSIONS) if not name_session(number, is_last=False)]
    later = sum(served.begun[number] - 1 for number in untold)
    assert later * 0.99 <= figures["turns_found"] <= later
    assert figures["turns_told"] == begun - sum(served.begun[number] for number in untold)
    assert figures["aborts"] == len(GONE_WITHIN)
    assert after["bidkv_running_requests"] == after["bidkv_waiting_requests"] == 0
    assert after["bidkv_session_failures_total"] == after["bidkv_adapter_failures_total"] == 0
    assert after["bidkv_hooks_in_place"] == 1


def repository_paths() -> list[str]:
    """Where `tests` and `bidkv` lie, for a server's processes."""
    root = Path(__file__).parents[2]
    return [str(root), str(root / "src")]
