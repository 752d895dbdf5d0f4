"""A valid input of every reader, where all mutation starts, and values made to hurt."""

from __future__ import annotations

import gzip
import io
import json
from contextlib import suppress
from importlib import import_module

from tests.reliability.scratch import SCRATCH
from tests.support import requests_of, steady_profile

from bidkv.experiments.load_samples import LoadReport, Sample, write_samples
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.observability.decision_log import DecisionLog
from bidkv.policy import resolve
from bidkv.results import encode
from bidkv.simulator import EngineConfig, simulate
from bidkv.workloads import freeze, manifest_path

ENGINE = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)


def a_result() -> bytes:
    run = simulate(requests_of((5, 9), (44, 3)), resolve("lcf"), ENGINE, steady_profile(), timeline_points=4)
    return encode(run).encode()


def a_simulation() -> bytes:
    run = simulate(requests_of((5, 9), (44, 3)), resolve("lcf"), ENGINE, steady_profile(), timeline_points=2)
    return json.dumps({"config": {"trace": "t", "seed": 1}, "runs": [run.summary()]}).encode()


def packed_traces() -> tuple[bytes, ...]:
    """A table as gzip, Zstandard and Parquet write it, where those packages are there."""
    rows = b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n0.75,7,2\n"
    packed = [gzip.compress(rows, mtime=0)]
    with suppress(ImportError):
        packed.append(import_module("zstandard").compress(rows))
    with suppress(ImportError):
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        columns = {"arrived_at": [0.5], "num_prefill_tokens": [10], "num_decode_tokens": [3]}
        buffer = io.BytesIO()
        parquet.write_table(arrow.table(columns), buffer)
        packed.append(buffer.getvalue())
    return tuple(packed)


CONFIG = b"""\
num-gpu-blocks = 600
[simulate]
strategy = ["lcf", "fair"]
rate = 2.5
"stream" = false
"""


def a_decision_log() -> bytes:
    path = SCRATCH / "seed-decisions.jsonl"
    log = DecisionLog(path)
    simulate(
        requests_of((5, 9), (14, 13), (14, 9)),
        resolve("lcf"),
        ENGINE,
        steady_profile(),
        backend="python",
        observer=log,
    )
    log.close()
    return path.read_bytes()


def a_manifest() -> bytes:
    path = SCRATCH / "frozen.jsonl"
    freeze(requests_of((5, 9), (4, 3)), path)
    return manifest_path(path).read_bytes()


def an_experiment() -> bytes:
    plan = ExperimentPlan(
        "sim", ("lcf", "fair"), (LoadPoint("mixed", 2.0),), 2, 10, 1, {"num_gpu_blocks": 600}
    )
    return json.dumps(plan.as_dict()).encode()


def some_samples() -> bytes:
    sample = Sample("r0", 0.5, 0.5, [(0.6, 1), (0.7, 2)], 0.8)
    path = SCRATCH / "seed-samples.jsonl"
    write_samples(path, LoadReport.summarize(0.0, [sample]), [sample, Sample("r1", 0.6, error="refused")])
    return path.read_bytes()


MODEL = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
MOONCAKE = (
    b'{"timestamp": 1, "input_length": 600, "output_length": 5, "hash_ids": [1, 2], "weight": 2.5}\n'
    b'{"timestamp": 27, "input_length": 10, "output_length": 1, "deadline_ms": 100, "agent_id": "a"}\n'
)
AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,10,20\n2023-11-16 18:15:47,1,1\n"
LENGTHS = b"prompt_tokens,output_tokens\n10,20\n1,1\n"
STEPS = b"step_s,tokens,prefill,decode,context\n0.01,12,10,2,300\n0.02,3,0,3,310\n"


PAGE = (
    b'# TYPE x histogram\nx_bucket{le="0.1"} 1\nx_bucket{le="+Inf"} 2\nx_count 2\nx_sum 0.3\n'
    b"# TYPE y gauge\ny 1.5\n"
)
EXPORTER = (
    b'bidkv_policy_active{policy="fair"} 1.0\nbidkv_total_blocks 600.0\nbidkv_free_blocks 100.0\n'
    b"bidkv_running_requests 3.0\nbidkv_preemptions_by_policy_total 2.0\n"
)
RECORDED = (
    b"arrival,prompt,output,finish\n0.0,10,5,1.5\n0.5,3,1,2.5\n\ntokens,preempted,lost\n13,0,0\n2,1,4\n"
)
RUNS = [
    {
        "name": "a", "family": "mixed", "n": 10, "rate_rps": 2.0, "seed": 1, "policy": "fair", "blocks": 100,
        "chunk": 512,
    }
]  # fmt: skip

HOSTILE = (
    b"", b"\x00", b"\xff\xfe\x00", b"NaN", b"1e999", b"-1", b"9" * 5000, b"[" * 5000, b'{"a":' * 5000,
    b"null", b"true", b'"\\ud800"', b"1e400", b"-0.0", b"1" + b"0" * 22, b"[]", b"{}", b'""', b"1.5",
    b"\r\n", b",",
)  # fmt: skip
