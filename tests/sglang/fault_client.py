"""Clients of the fault campaign: some wait for their answer, some give up in every way a client can."""

import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from real_server import ANSWER_LIMIT_S, Server
from tiny_model import VOCABULARY

CLIENTS = 24
LEAVES = ("disconnects while running", "disconnects while waiting", "aborts while running", "aborts at once")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; `leaves` names how its client gives it up in the disturbed run, or is empty."""

    number: int
    prompt: list[int]
    parameters: dict
    leaves: str = ""


@dataclass(slots=True)
class Ended:
    """How requests ended, by number."""

    outputs: dict[int, list[int]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    given_up: dict[int, str] = field(default_factory=dict)

    def note(self, number: int, answer: dict) -> None:
        """Take in an answer: tokens, or an error in the engine's words."""
        reason = answer.get("meta_info", {}).get("finish_reason") or {}
        if reason.get("type") in ("length", "stop"):
            self.outputs[number] = answer["output_ids"]
        else:
            self.errors[number] = str(answer.get("error") or reason)


def requests(count: int) -> list[Asked]:
    """Seeded; some without a cap, some with one beyond any memory, some that the engine must refuse."""
    rng = random.Random(11)
    made = []
    for number in range(count):
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(5, 60))]
        parameters = {"max_new_tokens": rng.randint(5, 50), "temperature": 0.0, "ignore_eos": True}
        leaves = rng.choice(LEAVES) if rng.random() < 0.2 else ""
        match number % 50:
            case 5:  # no cap
                del parameters["max_new_tokens"]
            case 15:  # alone it fills the whole memory
                prompt, parameters["max_new_tokens"] = (prompt * 40)[:200], 1500
            case 25:  # more than the model can ever generate
                parameters["max_new_tokens"] = 10**9
            case 35:  # longer than the memory
                prompt = (prompt * 60)[:300]
            case 45:  # longer than the model's context
                prompt = (prompt * 600)[:3000]
        made.append(Asked(number, prompt, parameters, leaves))
    return made


def serve(server: Server, phase: str, asked: list[Asked], *, disturbed: bool = False) -> Ended:
    """Send all of them, a few dozen at a time, and return how each ended."""
    ended = Ended()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in [clients.submit(_one, server, phase, one, disturbed, ended) for one in asked]:
            done.result()
    return ended


def _one(server: Server, phase: str, asked: Asked, disturbed: bool, ended: Ended) -> None:
    rid = f"{phase}-{asked.number:05}"
    leaves = asked.leaves if disturbed else ""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_LIMIT_S)
    body = {"rid": rid, "input_ids": asked.prompt, "sampling_params": asked.parameters, "stream": True}
    try:
        connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
        if leaves == "disconnects while waiting":
            ended.given_up[asked.number] = leaves
            return
        if leaves == "aborts at once":
            time.sleep(0.02)  # not to be ahead of the request, on another connection
            _abort(server, rid)
        response = connection.getresponse()
        if response.status != 200:
            ended.note(asked.number, json.loads(response.read()))
            return
        last = _last_event(response, stop_early=leaves in LEAVES[:3])
        if leaves == "disconnects while running":
            ended.given_up[asked.number] = leaves
            return
        if leaves == "aborts while running":
            _abort(server, rid)
            last = _last_event(response) or last
        ended.note(asked.number, last)
        if leaves and "abort" in ended.errors.get(asked.number, ""):
            del ended.errors[asked.number]
            ended.given_up[asked.number] = leaves
    finally:
        connection.close()


def _last_event(response: http.client.HTTPResponse, *, stop_early: bool = False) -> dict:
    last: dict = {}
    for line in response:
        if line.startswith(b"data: {"):
            last = json.loads(line[6:])
            if stop_early:
                return last
    return last


def _abort(server: Server, rid: str) -> None:
    server.post("/abort_request", {"rid": rid}, ANSWER_LIMIT_S)
