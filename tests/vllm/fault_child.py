"""Run in a process of its own: one real CPU engine, undisturbed first, then with everything going wrong.

    python -m tests.vllm.fault_child MODEL REQUESTS FOLDER

The same requests are served three times: by vLLM's own rules, by a policy left alone, and while faults are
injected between (and within) steps. Writes FOLDER/report.json.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

VOCABULARY = 1000
MODEL_LEN = 512
BLOCKS = 41
LIVE = 32
LOG_ROOM_BYTES = 5_000
"""How much more the disk of the decision log takes once things go wrong."""
COMMANDS = ("on", "off", "fair", "fast", "lcf", "fair:cap=0", "nonsense", "", "\x00\xff", "x" * 9000)


def requests(count: int) -> list[tuple[list[int], int | None]]:
    """Seeded (prompt, max_tokens); some without a cap, some with one beyond any memory."""
    rng = random.Random(11)
    made: list[tuple[list[int], int | None]] = []
    for number in range(count):
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randint(5, 150))]
        cap: int | None = rng.randint(5, 60)
        if number % 97 == 5:
            prompt, cap = prompt * 8, None  # to the end of the model's length
            prompt = prompt[: MODEL_LEN - 40]
        elif number % 97 == 50:
            prompt, cap = (prompt * 100)[: MODEL_LEN - 30], 10**9
        made.append((prompt, cap))
    return made


class Faults:
    """What goes wrong, at random from a seed; counts what it did."""

    def __init__(self, scheduler: Any, control_file: Path) -> None:
        self.random = random.Random(12)
        self.done: Counter[str] = Counter()
        self.scheduler = scheduler
        self.control_file = control_file
        self.aborted: set[str] = set()

    def before_step(self, engine: Any, live: dict[str, Any], started: set[str]) -> None:
        """Perhaps something goes wrong before the coming step."""
        controller = self.scheduler.bidkv.controller
        if not controller.active:
            controller.enable()
        if self.random.random() > 0.3:
            return
        fault = self.random.choice(("policy", "policy", "control file", "abort", "kill switch", "terminate"))
        if fault == "policy":
            from tests.faulty_policies import FAULTS

            name = self.random.choice(sorted(FAULTS))
            controller.switch(FAULTS[name]())
            fault = f"policy {name}"
        elif fault == "control file":
            self._spoil_control_file()
        elif fault == "kill switch":
            controller.disable()
        elif fault == "terminate":
            controller.switch(Terminated())
        elif fault == "abort":
            running = {request.request_id for request in self.scheduler.running}
            victim = self.random.choice(sorted(live))
            fault = (
                "abort of a running request" if internal_id(victim, running) else "abort of a waiting request"
            )
            engine.abort_request([victim])
            self.aborted.add(victim)
            del live[victim]
        self.done[fault] += 1

    def _spoil_control_file(self) -> None:
        path = self.control_file
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        match self.random.randrange(4):
            case 0:
                path.mkdir()
            case 1:
                path.symlink_to("/dev/zero")
            case 2:
                os.mkfifo(path)
            case 3:
                path.write_text(self.random.choice(COMMANDS), encoding="latin-1")
                path.chmod(self.random.choice((0o600, 0o666)))
        # The adapter looks a few times a second; here at every fault.
        self.scheduler.bidkv._next_poll_s = float("-inf")
        self.scheduler.bidkv._control_file._next_look_s = float("-inf")


def internal_id(request_id: str, running: set[str]) -> bool:
    """Whether a request runs; the engine adds a suffix of its own to the id it was given."""
    return any(name == request_id or name.startswith(f"{request_id}-") for name in running)


def terminated_policy() -> type:
    """A policy during whose answer the process gets a SIGTERM, which a handler turns into SystemExit."""
    from bidkv.protocol.policy import Policy

    class _Terminated(Policy):
        name = "terminated"

        def select_victim(self, candidates: Any, need_blocks: int, engine: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return candidates[0]

    return _Terminated


Terminated: Any = terminated_policy()


def stop(*_: Any) -> None:
    """As vLLM's engine process does."""
    raise SystemExit


def serve(llm: Any, made: list[tuple[list[int], int | None]], faults: Faults | None = None) -> dict[str, Any]:
    """Serve the requests, a few dozen at a time; return outputs, errors and what was given up."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    waiting = list(enumerate(made))
    live: dict[str, Any] = {}
    outputs: dict[str, list[int]] = {}
    exits = steps = 0
    while waiting or live:
        while waiting and len(live) < LIVE:
            number, (prompt, cap) = waiting.pop(0)
            live[str(number)] = True
            engine.add_request(
                str(number),
                {"prompt_token_ids": prompt},
                SamplingParams(temperature=0.0, max_tokens=cap, ignore_eos=True, detokenize=False),
            )
        if faults is not None:
            faults.before_step(engine, live, set(outputs))
        try:
            for output in engine.step():
                if output.finished and output.request_id in live:
                    outputs[output.request_id] = list(output.outputs[0].token_ids)
                    del live[output.request_id]
        except SystemExit:
            exits += 1
        steps += 1
        if steps > 200 * len(made) + 1000:
            raise RuntimeError(f"{len(live)} requests do not end: {sorted(live)[:5]}")
    while scheduler.has_unfinished_requests():  # aborted ones leave
        engine.step()
    pool = scheduler.kv_cache_manager.block_pool
    return {
        "outputs": outputs,
        "steps": steps,
        "exits": exits,
        "blocks_lost": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
        "left": len(scheduler.running) + scheduler.get_request_counts()[1],
    }


def refused(llm: Any, prompt: list[int], **params: Any) -> str:
    """The error of a request that the engine does not take."""
    from vllm import SamplingParams

    try:
        llm.llm_engine.add_request("refused", {"prompt_token_ids": prompt}, SamplingParams(**params))
    except Exception as error:  # whatever class this version of vLLM has for it
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Serve three times and report."""
    model, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    control_file = folder / "control"
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    port.listen()
    os.environ |= {
        "BIDKV_STRATEGY": "fair",
        "BIDKV_CONTROL_FILE": str(control_file),
        "BIDKV_DECISION_LOG": str(folder / "decisions.jsonl"),
        "BIDKV_METRICS_PORT": str(port.getsockname()[1]),
    }
    from bidkv.adapters.vllm.plugin import register

    register()
    from vllm import LLM

    llm = LLM(
        model=model,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.1,
        block_size=32,
        max_model_len=MODEL_LEN,
        max_num_batched_tokens=256,
        max_num_seqs=16,
        num_gpu_blocks_override=BLOCKS,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    controller = scheduler.bidkv.controller
    made = requests(count)
    controller.disable()
    start = controller.counters.as_dict()
    alone = serve(llm, made)
    controller.enable()
    before = controller.counters.as_dict()
    undisturbed = serve(llm, made)
    between = controller.counters.as_dict()
    signal.signal(signal.SIGTERM, stop)
    # No file of this process can grow beyond this: the decision log meets a full disk.
    log = folder / "decisions.jsonl"
    log_bytes = log.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (log_bytes + LOG_ROOM_BYTES, resource.RLIM_INFINITY))
    faults = Faults(scheduler, control_file)
    disturbed = serve(llm, made, faults)
    after = controller.counters.as_dict()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report = {
        "alone": alone,
        "undisturbed": undisturbed,
        "disturbed": disturbed,
        "faults": dict(faults.done),
        "aborted": sorted(faults.aborted),
        "counters": {
            "alone": {name: before[name] - start[name] for name in after},
            "undisturbed": {name: between[name] - before[name] for name in after},
            "disturbed": {name: after[name] - between[name] for name in after},
        },
        "metrics_served": bool(scheduler.bidkv.metrics and scheduler.bidkv.metrics.serving),
        "log_bytes": [log_bytes, log.stat().st_size],
        "log_is_whole": log.read_bytes().endswith(b"}\n"),
        "refused": {
            "prompt beyond the model": refused(llm, [1] * (MODEL_LEN + 1), max_tokens=1),
            "no tokens asked for": refused(llm, [1], max_tokens=0),
        },
    }
    report["after"] = serve(llm, made[:20])
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
