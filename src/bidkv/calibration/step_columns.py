"""Columns of a step log: one CSV row per engine step, written on a GPU host and read by the calibration.

A fit requires ``step_s``, ``tokens``, ``prefill``, ``decode`` and ``context``; the others make it better.
``preempted`` and ``lost`` occur in logs of runs under memory pressure.
"""

CELL_COLUMNS = ("cell", "conc", "plen", "chunk")
"""The grid cell: its number, the requests that decode in it, their prompt length, the step's token budget."""

RECORDED_COLUMNS = (
    *CELL_COLUMNS,
    "step_s",  # seconds
    "tokens",  # scheduled = prefill + decode
    "prefill",  # prefill tokens scheduled, recompute included
    "decode",  # requests that decode one token
    "context",  # tokens resident of the scheduled requests, this step's included
    "prefill_attention",  # sum over prefill chunks of chunk * (tokens computed before + chunk / 2)
    "num_prefills",  # requests that prefill
    "running",  # requests running after scheduling
    "waiting",  # requests waiting after scheduling
    "free_blocks",  # KV blocks free after scheduling
)
"""What :mod:`bidkv.gpu_host.calibration_run` writes, in this order."""

COLUMNS = (*RECORDED_COLUMNS, "preempted", "lost")
"""Every column a reader knows."""

REQUIRED_COLUMNS = ("step_s", "tokens", "prefill", "decode", "context")
