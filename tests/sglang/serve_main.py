"""The real server on a CPU, with a record of every retraction; flags are SGLang's own.

Everything at module level runs again in SGLang's spawned processes, where the scheduler lives. The record
goes to the file RETRACTIONS_FILE: one JSON line for every retraction, by a hook of its own.
"""

import json
import os
import sys

import shims

shims.install()

from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: E402  after the shims


def _record(original, batch):
    from sglang.srt.managers.schedule_batch import ScheduleBatch

    upstream = ScheduleBatch._get_decode_retraction_order
    while hasattr(upstream, "__wrapped__"):
        upstream = upstream.__wrapped__
    preferred = [batch.reqs[i].rid for i in reversed(upstream(batch.reqs))]
    retracted, ratio, aborted = original(batch)
    with open(os.environ["RETRACTIONS_FILE"], "a") as file:
        record = {
            "upstream": preferred,
            "retracted": [req.rid for req in retracted],
            "aborted": [req.rid for req in aborted],
        }
        file.write(json.dumps(record) + "\n")
    return retracted, ratio, aborted


HookRegistry.register(
    "sglang.srt.managers.schedule_batch.ScheduleBatch.retract_decode", _record, HookType.AROUND
)

if __name__ == "__main__":
    from bidkv.experiments.sglang.serve import main

    sys.exit(main())
