"""Every reader of what comes from outside: how to feed it bytes, and the only errors that may come out.

The quick tests mutate the valid inputs below by chance; scripts/fuzz.py lets a coverage-guided fuzzer do it.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

from tests.support import FakeClock, Scripted, requests_of, steady_profile

from bidkv.adapters.environment import read_environment
from bidkv.control import Controller
from bidkv.control_file import ControlFile, obey
from bidkv.experiments.calibrate.step_log import StepLogError, read_step_log
from bidkv.experiments.runner.plan import Load, Plan
from bidkv.experiments.runner.store import Store, StoreError
from bidkv.experiments.traces import TraceError, read_trace
from bidkv.experiments.workloads import freeze, load_frozen, manifest_path
from bidkv.observability.decision_log import DecisionLog
from bidkv.observability.log_reader import LogError, read_log
from bidkv.policy import PolicySpecError, resolve, resolve_all
from bidkv.profiles import ProfileError, dump_profile, load_profile
from bidkv.profiles.analytic import analytic_profile
from bidkv.results import SchemaError, decode, encode
from bidkv.simulator import EngineConfig, simulate

LONGEST_MESSAGE = 1500
MOST_ROWS = 1000
"""Of a trace, a fuzzed file of which may state a great many tiny rows."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader.

    Attributes:
        name: for reports and the command line.
        read: takes whatever bytes; raises only `errors`.
        errors: what its documentation says it raises.
        seeds: valid inputs, the start of all mutation.
    """

    name: str
    read: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


_MEMORY = "/dev/shm"  # files in memory, where the system has them
SCRATCH = Path(tempfile.mkdtemp(prefix="bidkv-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


def _file(name: str, content: bytes) -> Path:
    path = SCRATCH / name
    path.write_bytes(content)
    return path


def _text(content: bytes) -> str:
    """As the operating system hands arguments over: what is no UTF-8 becomes surrogates."""
    return content.decode("utf-8", "surrogateescape")


# --- the readers -------------------------------------------------------------------------------------
def _profile(content: bytes) -> None:
    profile = load_profile(_file("profile.json", content))
    assert profile.for_engine(8, 64).step_s(10, 50.0, 3, 100, 1) > 0.0
    dump_profile(profile)


def _model_config(content: bytes) -> None:
    analytic_profile(_file("config.json", content), "h100-sxm")


def _result(content: bytes) -> None:
    result = decode(content)
    result.summary()
    assert encode(decode(encode(result))) == encode(result)


def _environment(content: bytes) -> None:
    values = _text(content).split("\n")
    names = ("BIDKV_METRICS_PORT", "BIDKV_STRATEGY", "BIDKV_CONTROL_FILE", "BIDKV_DECISION_LOG")
    port = read_environment(dict(zip(names, values, strict=False))).metrics_port
    assert port is None or 1 <= port <= 65535


def _control_file(content: bytes) -> None:
    path = _file("control", content)
    path.chmod(0o600)
    controller = Controller(Scripted(reserve=lambda engine: 0))
    command = ControlFile(path, clock=FakeClock()).poll()
    if command is not None:
        obey(command, controller, resolve)
        assert controller.active == (command != "off")


def _policy_spec(content: bytes) -> None:
    for policy in resolve_all(_text(content)):
        assert Controller(policy).active


_ENGINE_FIELDS = {field.name for field in fields(EngineConfig)}


def _engine_config(content: bytes) -> None:
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return  # a caller in Python; only the values are in question
    if isinstance(given, dict):
        config = EngineConfig(
            **{"num_gpu_blocks": 10} | {k: v for k, v in given.items() if k in _ENGINE_FIELDS}
        )
        assert config.model_len >= 1
        assert config.watermark_blocks >= 0


def _trace(trace_format: str, content: bytes) -> None:
    rate = 1.0 if trace_format in ("lengths", "auto") else None
    for request in islice(
        read_trace(_file("trace", content), trace_format=trace_format, rate_rps=rate), MOST_ROWS
    ):
        assert request.prompt_tokens >= 1 <= request.output_tokens


def _manifest(content: bytes) -> None:
    path = SCRATCH / "frozen.jsonl"
    manifest_path(path).write_bytes(content)
    list(load_frozen(path)[1])


def _step_log(content: bytes) -> None:
    assert len(read_step_log(_file("steps.csv", content))) >= 1


def _experiment(content: bytes) -> None:
    folder = SCRATCH / "experiment"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    plan = Store.open(folder).plan
    assert all(str(cell) for cell in islice(plan.cells(), MOST_ROWS))


def _decision_log(content: bytes) -> None:
    for line in read_log(_file("decisions.jsonl", content)):
        assert line is not None


# --- valid inputs ------------------------------------------------------------------------------------
_ENGINE = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)


def _a_result() -> bytes:
    run = simulate(requests_of((5, 9), (44, 3)), resolve("lcf"), _ENGINE, steady_profile(), timeline_points=4)
    return encode(run).encode()


def _a_decision_log() -> bytes:
    path = SCRATCH / "seed-decisions.jsonl"
    log = DecisionLog(path)
    simulate(
        requests_of((5, 9), (14, 13), (14, 9)),
        resolve("lcf"),
        _ENGINE,
        steady_profile(),
        backend="python",
        observer=log,
    )
    log.close()
    return path.read_bytes()


def _a_manifest() -> bytes:
    path = SCRATCH / "frozen.jsonl"
    freeze(requests_of((5, 9), (4, 3)), path)
    return manifest_path(path).read_bytes()


def _an_experiment() -> bytes:
    plan = Plan("sim", ("lcf", "fair"), (Load("mixed", 2.0),), 2, 10, 1, {"num_gpu_blocks": 600})
    return json.dumps(plan.as_dict()).encode()


_MODEL = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
_MOONCAKE = (
    b'{"timestamp": 1, "input_length": 600, "output_length": 5, "hash_ids": [1, 2], "weight": 2.5}\n'
    b'{"timestamp": 27, "input_length": 10, "output_length": 1, "deadline_ms": 100, "agent_id": "a"}\n'
)
_AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,10,20\n2023-11-16 18:15:47,1,1\n"
_LENGTHS = b"prompt_tokens,output_tokens\n10,20\n1,1\n"
_STEPS = b"step_s,tokens,prefill,decode,context\n0.01,12,10,2,300\n0.02,3,0,3,310\n"


def readers() -> Iterator[Reader]:
    """Yield all readers; makes their valid inputs."""
    profile = dump_profile(steady_profile()).encode()
    yield Reader("profile", _profile, (ProfileError,), (profile,))
    yield Reader("model-config", _model_config, (ProfileError,), (json.dumps(_MODEL).encode(),))
    yield Reader("result", _result, (SchemaError,), (_a_result(),))
    yield Reader(
        "environment",
        _environment,
        (ValueError,),
        (b"9100\nfair:cap=8\n/run/bidkv\n/var/log/bidkv", b"\n\n\n"),
    )
    yield Reader(
        "control-file", _control_file, (), (b"on\n", b"off", b"fair:cap=8;gain=2.5", b"past-future:seed=3")
    )
    yield Reader(
        "policy-spec",
        _policy_spec,
        (PolicySpecError,),
        (b"fast:dial=4;passes=64,lcf", b"watermark:f=0.02", b"static-random:seed=1"),
    )
    yield Reader(
        "engine-config",
        _engine_config,
        (ValueError,),
        (
            b'{"num_gpu_blocks": 600, "block_size": 16, "watermark": 0.1, "scheduling_policy": "priority"}',
            b'{"enable_chunked_prefill": false, "long_prefill_token_threshold": 3, "max_model_len": 10}',
        ),
    )
    for name, seed in (("mooncake", _MOONCAKE), ("azure", _AZURE), ("lengths", _LENGTHS)):
        yield Reader(f"trace-{name}", partial(_trace, name), (TraceError,), (seed,))
    yield Reader("trace-auto", partial(_trace, "auto"), (TraceError,), (_MOONCAKE, _AZURE, _LENGTHS))
    yield Reader("manifest", _manifest, (TraceError,), (_a_manifest(),))
    yield Reader("step-log", _step_log, (StepLogError,), (_STEPS,))
    yield Reader("experiment", _experiment, (StoreError,), (_an_experiment(),))
    yield Reader("decision-log", _decision_log, (LogError,), (_a_decision_log(),))


def feed(reader: Reader, content: bytes) -> bool:
    """Feed one input; tells whether it was taken, False after a documented error with a message to read."""
    try:
        reader.read(content)
    except reader.errors as error:
        if not 0 < len(str(error)) < LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return False
    return True
