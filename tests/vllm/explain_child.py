"""Run in a process of its own: real CPU engines with decision logs, and their own accounts of the runs.

    python -m tests.vllm.explain_child MODEL '{"name": {"policy": "lcf", ...}, ...}' FOLDER

Each run leaves NAME.log and NAME.json in the folder. The account is taken from vLLM's requests and scheduler
outputs, past the adapter: for every step who ran with which figures, who was preempted, what was scheduled.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.vllm.engine_child import build, forced_async_scheduling, scheduler_of, serve

from bidkv.adapters.environment import DECISION_LOG, STRATEGY
from bidkv.adapters.vllm.plugin import register, unregister


def account_of(scheduler: Any) -> list[dict[str, Any]]:
    """Keep the account of every step from now on."""
    steps: list[dict[str, Any]] = []
    schedule, preempt = scheduler.schedule, scheduler._preempt_request

    def figures(request: Any) -> dict[str, Any]:
        return {
            "request_id": request.request_id,
            "prompt": request.num_prompt_tokens,
            "generated": request.num_output_tokens,
            "computed": request.num_computed_tokens,
            "cap": request.max_tokens,
            "preemptions": request.num_preemptions,
        }

    def watched_preempt(request: Any, *args: Any, **kwargs: Any) -> None:
        steps[-1]["preempted"].append(figures(request))
        preempt(request, *args, **kwargs)

    def watched_schedule(*args: Any, **kwargs: Any) -> Any:
        steps.append({"running": [figures(request) for request in scheduler.running], "preempted": []})
        output = schedule(*args, **kwargs)
        steps[-1]["scheduled"] = dict(output.num_scheduled_tokens)
        return output

    scheduler.schedule, scheduler._preempt_request = watched_schedule, watched_preempt
    return steps


def run(model: str, options: dict[str, Any], log: Path) -> list[dict[str, Any]]:
    """Serve once."""
    environment = {STRATEGY: options["policy"], DECISION_LOG: str(log)}
    with patch.dict(os.environ, environment), forced_async_scheduling(options["asynchronous"]):
        register()
        llm = build(model, options)
    unregister()
    steps = account_of(scheduler_of(llm))
    serve(llm, options)
    llm.llm_engine.engine_core.shutdown()
    return steps


def main() -> None:
    """Do every run of the options."""
    model, runs, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    for name, options in runs.items():
        steps = run(model, options, folder / f"{name}.log")
        (folder / f"{name}.json").write_text(json.dumps(steps))


if __name__ == "__main__":
    main()
