"""Run in a process of its own: sessions in closed loop on one real CPU engine, memory ample and short.

    python -m tests.vllm.session_child MODEL SESSIONS TURNS FOLDER

Every next prompt repeats the conversation, the engine's own answers included. The same sessions are served
with ample memory by vLLM's own rules; with short memory and everything going wrong; and with short memory
while no client names its session, plainly and through a template that drops the first part of every answer.
Writes FOLDER/report.json after each way; begun again, it goes on with the next one.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

VOCABULARY = 1000
MODEL_LEN = 1024
AMPLE_BLOCKS = 2500
SHORT_BLOCKS = 64
AT_ONCE = 30
REASONING_TOKENS = 3
"""Leading tokens of an answer that the template leaves out of the conversation."""


class Client:
    """One session's client."""

    def __init__(self, number: int, turns: int) -> None:
        draw = random.Random(f"client {number}")
        self.name = f"s{number}"
        # A third of the clients share an instruction, as agents of one kind do.
        shared = random.Random("instruction").choices(range(10, VOCABULARY), k=64) if number % 3 == 0 else []
        self.new = [shared + draw.choices(range(10, VOCABULARY), k=draw.randint(33, 60))]
        self.new += [draw.choices(range(10, VOCABULARY), k=draw.randint(6, 24)) for _ in range(turns - 1)]
        self.lengths = [draw.randint(4, 9) for _ in range(turns)]
        self.gaps = [draw.randint(0, 25) for _ in range(turns)]
        self.past: list[int] = []
        self.turn = 0
        self.due_step = 0

    @property
    def request_id(self) -> str:
        return f"{self.name}#{self.turn}"

    def prompt(self) -> list[int]:
        return self.past + self.new[self.turn]

    def answered(self, answer: list[int], step: int, drops: int) -> bool:
        """Take the answer into the conversation; return whether another turn follows."""
        self.past = self.prompt() + answer[drops:]
        self.turn += 1
        if self.turn == len(self.new):
            return False
        self.due_step = step + self.gaps[self.turn]
        return True


class Faults:
    """What goes wrong, at random from a seed; counts what it did."""

    def __init__(self, scheduler: Any) -> None:
        self.random = random.Random(12)
        self.done: Counter[str] = Counter()
        self.controller = scheduler.bidkv.controller
        self.strategy = scheduler.bidkv.resolve(os.environ["BIDKV_STRATEGY"])

    def before_step(self, engine: Any, live: dict[str, Client], idle: list[Client]) -> None:
        """Perhaps something goes wrong before the coming step."""
        controller = self.controller
        if self.random.random() > 0.05:
            return
        fault = self.random.choice(
            ("policy", "kill switch", "vanishes between turns", "vanishes in a turn", "back")
        )
        if fault == "policy":
            from tests.faulty_policies import FAULTS, SESSION_FAULTS

            faults = FAULTS | SESSION_FAULTS
            name = self.random.choice(sorted(faults))
            controller.switch(faults[name]())
            fault = f"policy {name}"
        elif fault == "kill switch":
            controller.disable()
        elif fault == "vanishes between turns" and idle:
            idle.pop(self.random.randrange(len(idle)))
        elif fault == "vanishes in a turn" and live:
            request_id = self.random.choice(sorted(live))
            engine.abort_request([request_id])
            del live[request_id]
        else:
            from bidkv.policy import resolve

            controller.switch(resolve(os.environ["BIDKV_STRATEGY"]))
            fault = "back"
        self.done[fault] += 1


class Loop:
    """Serves sessions in closed loop; gaps are counted in steps, so that every run is the same."""

    def __init__(self, llm: Any, *, told: bool, drops: int = 0, faults: bool = False) -> None:
        self.engine = llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.told = told
        self.drops = drops
        self.faults = Faults(self.scheduler) if faults else None
        self.outputs: dict[str, list[int]] = {}
        self.live: dict[str, Client] = {}
        self.idle: list[Client] = []
        # How the session accounts name the session of each turn.
        self.names: dict[str, str] = {}
        self.cached = 0

    def submit(self, client: Client) -> None:
        from vllm import SamplingParams

        stated = {
            "bidkv_session_id": client.name,
            "bidkv_session_end": int(client.turn == len(client.new) - 1),
        }
        params = SamplingParams(
            temperature=0.0,
            max_tokens=client.lengths[client.turn],
            ignore_eos=True,
            detokenize=False,
            extra_args=stated if self.told else None,
        )
        self.engine.add_request(client.request_id, {"prompt_token_ids": client.prompt()}, params)
        self.live[client.request_id] = client
        sessions = self.scheduler.bidkv.controller.sessions
        for view in self.scheduler.bidkv.glue.engine.views.values():
            if view.request_id.startswith(client.request_id + "-") or view.request_id == client.request_id:
                session = sessions.session_for(view)
                self.names[client.request_id] = "" if session is None else session.session_id

    def run(self, clients: list[Client]) -> dict[str, Any]:
        """Serve all of them; return what came of it."""
        waiting = list(clients)
        step = 0
        while waiting or self.live or self.idle:
            while waiting and len(self.live) + len(self.idle) < AT_ONCE:
                self.idle.append(waiting.pop(0))
            due = [client for client in self.idle if client.due_step <= step]
            self.idle = [client for client in self.idle if client.due_step > step]
            for client in due:
                self.submit(client)
            if self.faults is not None:
                self.faults.before_step(self.engine, self.live, self.idle)
            for output in self.engine.step():
                client = self.live.pop(output.request_id, None) if output.finished else None
                if client is None:
                    continue
                self.cached += output.num_cached_tokens or 0
                answer = list(output.outputs[0].token_ids)
                self.outputs[client.request_id] = answer
                if client.answered(answer, step, self.drops):
                    self.idle.append(client)
            step += 1
            if step > 400_000:
                raise RuntimeError(f"{len(self.live)} requests do not end: {sorted(self.live)[:5]}")
        while self.scheduler.has_unfinished_requests():  # aborted ones leave
            self.engine.step()
        self.engine.step()
        pool = self.scheduler.kv_cache_manager.block_pool
        free = {block.block_id for block in pool.free_block_queue.get_all_free_blocks()}
        return {
            "outputs": self.outputs,
            "names": self.names,
            "steps": step,
            "cached_tokens": self.cached,
            "blocks_lost": self.scheduler.bidkv.glue.engine.num_blocks - len(free),
            "left": len(self.scheduler.running) + self.scheduler.get_request_counts()[1],
            "faults": {} if self.faults is None else dict(self.faults.done),
        }


def main() -> None:
    """Serve in all ways and report."""
    model, sessions, turns, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.environ.setdefault("BIDKV_STRATEGY", "sessions")
    from bidkv.adapters.vllm.plugin import register

    register()
    from bidkv.gpu_host.served_engine import ServedEngine
    from bidkv.protocol.read_only import write_facts
    from vllm import LLM

    llm = LLM(
        model=model,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.1,
        block_size=32,
        max_model_len=MODEL_LEN,
        max_num_batched_tokens=512,
        max_num_seqs=16,
        num_gpu_blocks_override=AMPLE_BLOCKS,
        enable_prefix_caching=True,
        disable_log_stats=True,
    )
    served = ServedEngine(llm.llm_engine)
    controller = served.controller
    path = folder / "report.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def serve(name: str, *, blocks: int | None, **how: Any) -> None:
        if name in report:
            return
        served.empty_prefix_cache()
        # The same conversations again are no next turns: each run has books of its own.
        view = served.view
        write_facts(view, sessions=controller.track_sessions(view.cache))
        before = controller.counters.as_dict()
        with served.limited_to(blocks):
            report[name] = Loop(llm, **how).run([Client(number, turns) for number in range(sessions)])
        after = controller.counters.as_dict()
        report[name]["active"] = controller.active
        report[name]["counters"] = {key: after[key] - before[key] for key in after}
        report["attached"] = served.scheduler.bidkv.glue.attached
        report["session_failures"] = controller.counters.session_failures
        path.write_text(json.dumps(report))

    controller.disable()
    serve("ample", blocks=None, told=True)
    serve("template, ample", blocks=None, told=True, drops=REASONING_TOKENS)
    serve("own order", blocks=SHORT_BLOCKS, told=False)
    controller.enable()
    controller._time_budget_s = None  # a busy machine must not switch the policy off
    serve("told", blocks=SHORT_BLOCKS, told=True)
    serve("found", blocks=SHORT_BLOCKS, told=False)
    serve("template", blocks=SHORT_BLOCKS, told=False, drops=REASONING_TOKENS)
    serve("faults", blocks=SHORT_BLOCKS, told=True, faults=True)


if __name__ == "__main__":
    main()
