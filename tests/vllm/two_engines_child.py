"""Run in a process of its own: two real CPU engines at once, the second with little memory.

    python -m tests.vllm.two_engines_child MODEL COUNT REPORT

The first has memory for all requests, so its outputs are those without pressure. The report is JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.vllm.engine_child import build, scheduler_of, serve
from tests.vllm.exports import read_metrics

from bidkv.adapters.environment import METRICS_PORT
from bidkv.adapters.vllm.plugin import register


def main() -> None:
    """Serve the same requests on both."""
    model, count, path = sys.argv[1:]
    register()
    options: dict[str, Any] = {"count": int(count)}
    engines = [build(model, options | {"num_blocks": blocks}) for blocks in (400, 60)]
    for engine in engines:
        scheduler_of(engine).bidkv.controller._time_budget_s = 30.0  # this machine may be busy
    outputs = [serve(engine, options) for engine in engines]
    port = int(os.environ[METRICS_PORT])
    report = {
        "equal": outputs[0] == outputs[1],
        "metrics": [read_metrics(port + number) for number in range(2)],
        "free": [
            scheduler_of(engine).kv_cache_manager.block_pool.get_num_free_blocks() for engine in engines
        ],
    }
    Path(path).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
