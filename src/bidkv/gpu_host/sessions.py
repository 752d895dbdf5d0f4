"""Replay sessions in closed loop on a real vLLM engine in this process, one policy after another.

For a machine with a GPU, vLLM and this package::

    python -m bidkv.gpu_host.sessions --plan plan.json --output-dir runs --num-gpu-blocks 20000

The plan is a JSON list of runs (:class:`bidkv.gpu_host.session_plan.SessionRun`), the most important first::

    [{"name": "agents-1-own", "workload": "agents", "policy": "preempt-evict", "concurrent": 80, "pair": 1},
     {"name": "agents-1-sessions", "workload": "agents", "policy": "sessions", "concurrent": 80, "pair": 1}]

One engine with prefix caching and asynchronous scheduling, as vLLM runs by default, serves all runs. It is
stepped by hand. A turn is submitted its gap after the previous answer's last token, and its prompt holds the
answers that the engine really gave. Between two runs the engine is at rest and its prefix cache is empty.

A run ends `warm_up_s + window_s` seconds after its start. Its result file holds every turn that finished by
then; the figures of the window alone are in its notes, under "window". A result is written when its run ends:
the same command again makes only the runs that are missing. With several GPUs, one process for each takes a
share of the plan (`--shard 1/2`).
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bidkv.baselines import ENGINE_ORDER
from bidkv.command_line import make_command, print_error, run_command
from bidkv.gpu_host.engine import DEFAULT_SHAPE, build_engine, describe_engine
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.gpu_host.session_drive import SessionDrive
from bidkv.gpu_host.session_plan import SessionRun, read_session_plan, take_share
from bidkv.protocol.sessions import Session
from bidkv.results import RunResult
from bidkv.results.codec import encode
from bidkv.results.files import write_output
from bidkv.workloads.resolver import make_sessions
from bidkv.workloads.traces import TraceError, read_sessions

PROG = "bidkv.gpu_host.sessions"

_WARM_UP_TOKENS = (40, 300, 900, 2500)
"""Prompt lengths that are served once before the first run, so that every way of launching was used once."""


def fit_sessions(sessions: Sequence[Session], max_model_len: int, prefix: str) -> list[Session]:
    """Return sessions whose turns all fit the engine, under ids that no other run has.

    A session ends before the first turn that is too long; one without a first turn is left out.
    """
    fitting = []
    for session in sessions:
        lengths = [
            prompt + turn.output_tokens
            for prompt, turn in zip(session.prompt_lengths(), session.turns, strict=True)
        ]
        count = next((i for i, tokens in enumerate(lengths) if tokens > max_model_len), len(lengths))
        if count:
            name = f"{prefix}/{session.session_id}"
            fitting.append(replace(session, session_id=name, turns=session.turns[:count]))
    return fitting


def run_sessions(served: ServedEngine, run: SessionRun, sessions: Sequence[Session]) -> RunResult:
    """Make one run of the plan; afterwards the engine is at rest."""
    served.abort(())
    served.empty_prefix_cache()
    fitting = fit_sessions(sessions[: run.sessions], served.max_model_len, run.name)
    if len(fitting) < run.concurrent:
        raise ValueError(f"{run.name}: expected at least {run.concurrent} sessions, found {len(fitting)}")
    with served.limited_to(run.blocks):
        served.switch(run.policy)
        # A collection over everything that is there by now would stop the engine for a moment.
        gc.collect()
        gc.freeze()
        drive = SessionDrive(served, run, fitting)
        try:
            return drive.to_end()
        finally:
            served.abort(drive.live_requests)


def warm_up(served: ServedEngine) -> None:
    """Serve a few requests of all lengths, alone and together."""
    for lengths in (*((tokens,) for tokens in _WARM_UP_TOKENS), _WARM_UP_TOKENS):
        for number, tokens in enumerate(lengths):
            length = min(tokens, served.max_model_len // 2)
            served.submit(f"warm-up-{length}-{number}-{len(lengths)}", [11 + number] * length, 16)
        while served.engine.has_unfinished_requests():
            served.engine.step()


def sessions_for_run(run: SessionRun, folder: Path) -> list[Session]:
    """Return the sessions of a run: of a file beside the plan, or of a session workload by name.

    Raises:
        ValueError: no such file or workload.
        TraceError: a file without sessions.
    """
    file = folder / run.workload
    if file.is_file():
        return read_sessions(file, limit=run.sessions)
    return make_sessions(run.workload, run.sessions, run.seed)


def describe_run(run: SessionRun, result: RunResult) -> str:
    """Return a line of progress: the figures of the window."""
    window = result.notes["window"]
    sessions = window["sessions"]
    if sessions is None:
        return f"{run.name}: no turn finished in the window"
    parts = [
        f"{sessions['turns_per_s']:.3f} turns/s",
        f"{sessions['completed']} sessions completed",
        f"mean turn {sessions['turn_s']['mean']:.2f} s",
        f"{sessions['computed_per_new_token'] or 0.0:.2f} tokens computed per new token",
        f"hit rate {sessions['prefix_hit_rate'] or 0.0:.3f}",
        f"{window['preemptions']} preempted",
        "" if result.notes["active"] else f"POLICY OFF: {result.notes['breaker']}",
    ]
    return f"{run.name}: {', '.join(filter(None, parts))}"


def make_missing_runs(
    served: ServedEngine,
    runs: Sequence[SessionRun],
    sessions_for: Callable[[SessionRun], Sequence[Session]],
    output_dir: Path,
    deadline_s: float,
    say: Callable[[str], None],
) -> int:
    """Make the runs without a result file until all are made or time is short; return how many are missing.

    Args:
        served: the engine.
        runs: in order.
        sessions_for: the sessions of a run.
        output_dir: of the result files.
        deadline_s: on the performance counter's clock; no run starts that would end after it.
        say: takes one line of progress.
    """
    left = [run for run in runs if not (output_dir / f"{run.name}.json").exists()]
    made = 0
    for run in left:
        if time.perf_counter() + run.duration_s > deadline_s:
            say(f"{run.name}: not started, {run.duration_s:.0f} s are not left")
            continue
        result = run_sessions(served, run, sessions_for(run))
        write_output(output_dir / f"{run.name}.json", encode(result))
        made += 1
        say(describe_run(run, result))
    return len(left) - made


@dataclass(frozen=True, kw_only=True)
class SessionReplayOptions:
    """Replay sessions on a real vLLM engine, one policy after another."""

    plan: Annotated[Path, typer.Option(metavar="FILE", help="the runs to make, in order (JSON)")]
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="one result file per run")]
    num_gpu_blocks: Annotated[int, typer.Option(metavar="N", help="KV blocks, the null block included")]
    model: Annotated[str, typer.Option(metavar="DIR|SHAPE", help="a model directory or a packaged shape")] = (
        DEFAULT_SHAPE
    )
    max_num_seqs: Annotated[int, typer.Option(metavar="N", help="most requests at once")] = 256
    max_num_batched_tokens: Annotated[int, typer.Option(metavar="N", help="token budget")] = 2048
    max_model_len: Annotated[int, typer.Option(metavar="N", help="tokens of the longest request")] = 32_768
    engine_args: Annotated[str, typer.Option(metavar="JSON", help="further fields of vLLM's EngineArgs")] = (
        "{}"
    )
    synchronous: Annotated[bool, typer.Option("--synchronous", help="without asynchronous scheduling")] = (
        False
    )
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="make only every N-th pair of runs, from the K-th on")
    ] = "1/1"
    time_limit_s: Annotated[float, typer.Option(metavar="S", help="end within S seconds of the start")] = (
        math.inf
    )


def replay_sessions(given: SessionReplayOptions) -> int:
    """Start an engine and make the runs that are missing; returns the exit status."""
    started_s = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - started_s:6.0f} s] {line}", file=sys.stderr, flush=True)

    try:
        number, of = map(int, given.shard.split("/"))
        runs = take_share(read_session_plan(given.plan), number, of)
        sessions = {run.name: sessions_for_run(run, given.plan.parent) for run in runs}
        further = json.loads(given.engine_args)
    except (OSError, ValueError, TraceError) as error:
        return print_error(error)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    os.environ["BIDKV_STRATEGY"] = ENGINE_ORDER
    kind = "BidKVScheduler" if given.synchronous else "BidKVAsyncScheduler"
    settings = {
        "num_gpu_blocks_override": given.num_gpu_blocks,
        "scheduler_cls": f"bidkv.adapters.vllm.{kind}",
        "async_scheduling": not given.synchronous,
        "enable_prefix_caching": True,
        "max_model_len": given.max_model_len,
    }
    engine = build_engine(given.model, given.max_num_seqs, given.max_num_batched_tokens, settings | further)
    served = ServedEngine(engine)
    warm_up(served)
    facts = describe_engine(engine) | {"prefix_caching": True, "async_scheduling": not given.synchronous}
    write_output(given.output_dir / f"engine-{number}.json", json.dumps(facts, indent=2) + "\n")
    say(f"engine ready, {len(runs)} runs planned")
    deadline_s = started_s + given.time_limit_s
    left = make_missing_runs(served, runs, lambda run: sessions[run.name], given.output_dir, deadline_s, say)
    say(f"{left} runs missing" if left else "complete")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(make_command(SessionReplayOptions, replay_sessions), PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
