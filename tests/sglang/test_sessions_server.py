"""Sessions on a real server with little memory, over HTTP: kept or dropped, and every answer the same."""

import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from real_server import Server, running
from tiny_model import VOCABULARY

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(400)]

PAGE, PAGES = 16, 80
CLIENTS, HELD, TURNS = 3, 4, 5
"""Every client holds some conversations and takes turns between them: all but one of them are idle."""
SESSIONS = CLIENTS * HELD
TREE = {"SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python"}


@dataclass
class Served:
    """What one run of all conversations gave.

    Attributes:
        outputs: tokens of every answer, by request.
        prompt_tokens: tokens of all prompts.
        cached_tokens: the part of them that SGLang found in its cache, as it says itself.
        past_tokens: the part of them that an earlier turn of the same conversation had computed.
        gained: by how much every counter of bidkv grew.
    """

    outputs: dict[str, list[int]] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    past_tokens: int = 0
    gained: dict[str, float] = field(default_factory=dict)


class Conversation:
    """One session: every turn repeats everything before it."""

    def __init__(self, number: int) -> None:
        self.name = f"session-{number}"
        self.draw = random.Random(number)
        self.tokens: list[int] = []
        self.turn = 0

    def next_turn(self, server: Server, served: Served, phase: str, *, told: bool) -> None:
        past = len(self.tokens)
        new = 120 if self.turn == 0 else self.draw.randrange(20, 50)
        self.tokens += [self.draw.randrange(3, VOCABULARY) for _ in range(new)]
        parameters = {"max_new_tokens": self.draw.randrange(6, 14), "temperature": 0.0, "ignore_eos": True}
        if told:
            end = self.turn + 1 == TURNS
            parameters["custom_params"] = {"bidkv_session_id": self.name, "bidkv_session_end": end}
        # A list of one, since that is what `generate` sends.
        rid = f"{self.name}#{self.turn}"
        (answer,) = server.generate(
            [{"rid": f"{phase}-{rid}", "prompt": self.tokens, "parameters": parameters}]
        )
        output = answer["output_ids"]
        assert answer["meta_info"]["finish_reason"]["type"] == "length"
        assert len(output) == parameters["max_new_tokens"]
        served.outputs[rid] = output
        served.prompt_tokens += len(self.tokens)
        served.cached_tokens += answer["meta_info"]["cached_tokens"]
        served.past_tokens += past
        self.tokens += output
        self.turn += 1


def counters(server: Server) -> dict[str, float]:
    found = re.findall(r"^(bidkv_\w+?)_total (\S+)$", server.metrics(), re.M)
    return {name: float(value) for name, value in found}


def serve(server: Server, phase: str, *, told: bool, has_metrics: bool = True) -> Served:
    """Serve all conversations, `CLIENTS` turns at once."""
    served = Served()
    server.flush_cache()
    before = counters(server) if has_metrics else {}

    def hold(client: int) -> None:
        conversations = [Conversation(HELD * client + number) for number in range(HELD)]
        for _ in range(TURNS):
            for conversation in conversations:
                conversation.next_turn(server, served, phase, told=told)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(hold, range(CLIENTS)))
    server.flush_cache()  # answered by the scheduler, so everything before it is counted by then
    after = counters(server) if has_metrics else {}
    served.gained = {name.removeprefix("bidkv_"): after[name] - before.get(name, 0.0) for name in after}
    return served


@pytest.fixture(scope="module")
def ample(tmp_path_factory, tiny) -> Served:
    """A server without bidkv that holds everything."""
    folder = tmp_path_factory.mktemp("ample") / "server"
    with running(folder, tiny, None, "--page-size", str(PAGE), "--max-total-tokens", "16384") as server:
        return serve(server, "ample", told=False, has_metrics=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny) -> dict[str, Served]:
    """One server with little memory: its own order, then `sessions`, switched while it runs."""
    folder = tmp_path_factory.mktemp("short") / "server"
    flags = ("--page-size", str(PAGE), "--max-total-tokens", str(PAGE * PAGES))
    with running(folder, tiny, "sglang-default", *flags, environment=TREE) as server:
        runs = {"own order": serve(server, "own", told=True)}
        server.command("sessions", 'bidkv_policy_active{policy="sessions"} 1.0')
        runs["told"] = serve(server, "told", told=True)
        runs["found"] = serve(server, "found", told=False)
        assert "bidkv_hooks_in_place 1.0" in server.metrics()
    return runs


def test_no_turn_is_lost_and_every_answer_is_that_of_an_ample_server(ample, runs):
    assert len(ample.outputs) == SESSIONS * TURNS
    for name, served in runs.items():
        assert served.outputs == ample.outputs, name
        assert served.gained["completions"] == len(ample.outputs), name
        assert served.gained["aborts"] == 0, name


def test_memory_was_short(ample, runs):
    """Otherwise nothing was tested: alone, SGLang loses a good part of what it could have found."""
    assert ample.cached_tokens > 0.9 * ample.past_tokens
    assert runs["own order"].cached_tokens < 0.8 * ample.cached_tokens


def test_idle_sessions_are_dropped_and_kept_ones_are_found(ample, runs):
    for name, served in runs.items():
        hit = served.cached_tokens / served.prompt_tokens
        share = served.cached_tokens / ample.cached_tokens
        drops = served.gained["session_drops"]
        print(
            f"real SGLang server, {name}: {hit:.0%} of prompt tokens from the cache "
            f"({share:.0%} of what ample memory finds), {drops:.0f} drops"
        )
        assert served.gained["failures"] == served.gained["session_failures"] == 0, name
        assert served.gained["adapter_failures"] == 0, name
    assert runs["own order"].gained["session_drops"] == 0
    for name in ("told", "found"):
        assert runs[name].gained["session_drops"] > 0
        assert runs[name].cached_tokens > runs["own order"].cached_tokens


def test_turns_are_told_or_found(runs):
    turns = SESSIONS * TURNS
    assert runs["told"].gained["turns_told"] == turns
    assert runs["told"].gained["sessions_ended"] == SESSIONS
    later = turns - SESSIONS
    assert runs["found"].gained["turns_told"] == 0
    assert runs["found"].gained["turns_found"] >= 0.99 * later
