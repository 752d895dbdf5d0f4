"""Every reader of what comes from outside: how to feed it bytes, and the only errors that may come out.

The quick tests mutate the valid inputs below by chance; scripts/fuzz.py lets a coverage-guided fuzzer do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import islice
from pathlib import Path

from tests.reliability.scratch import SCRATCH, file
from tests.reliability.valid_inputs import (
    AZURE,
    CONFIG,
    EXPORTER,
    LENGTHS,
    MODEL,
    MOONCAKE,
    PAGE,
    RECORDED,
    RUNS,
    STEPS,
    a_decision_log,
    a_manifest,
    a_result,
    a_simulation,
    an_experiment,
    packed_traces,
    some_samples,
)
from tests.support import FakeClock, Scripted, steady_profile

from bidkv.adapters.client_values import LONGEST_NAME, agent_name, positive_number, shown_cap
from bidkv.adapters.environment import read_environment
from bidkv.calibration.fitting import read_graphs
from bidkv.calibration.replay_check import read_recording
from bidkv.calibration.replay_plan import read_runs
from bidkv.calibration.step_log import StepLogError, read_step_log
from bidkv.command_line.config_file import COMMANDS, ConfigError, read_config
from bidkv.config import BidKVConfig
from bidkv.control import Controller
from bidkv.control_file import ControlFile, obey
from bidkv.evaluation.comparison import ComparisonError, compare_sides, read_simulation
from bidkv.experiments.collector import parse_exporter
from bidkv.experiments.load_samples import read_samples
from bidkv.experiments.server_launch import read_vocabulary
from bidkv.experiments.store import Store, StoreError
from bidkv.observability.explain import stories
from bidkv.observability.log_reader import LogError, read_log
from bidkv.observability.replay import replay
from bidkv.observability.samples import parse_samples
from bidkv.observability.story_text import format_story, story_as_dict
from bidkv.observability.timeline import trace_events
from bidkv.policy import PolicySpecError, resolve, resolve_all
from bidkv.pressure import PressureConfig
from bidkv.profiles import ProfileError, dump_profile, load_profile
from bidkv.profiles.analytic import analytic_profile
from bidkv.results import SchemaError, decode, encode
from bidkv.simulator import EngineConfig, SglangConfig
from bidkv.solver import SolverConfig
from bidkv.stability import QueueingConfig
from bidkv.workloads import load_frozen, manifest_path
from bidkv.workloads.traces import TraceError, TraceOptions, open_trace, read_trace

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


def _text(content: bytes) -> str:
    """As the operating system hands arguments over: what is no UTF-8 becomes surrogates."""
    return content.decode("utf-8", "surrogateescape")


# --- the readers -------------------------------------------------------------------------------------
def _profile(content: bytes) -> None:
    profile = load_profile(file("profile.json", content))
    assert profile.for_engine(8, 64).step_s(10, 50.0, 3, 100, 1) > 0.0
    dump_profile(profile)


def _model_config(content: bytes) -> None:
    analytic_profile(file("config.json", content), "h100-sxm")


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
    path = file("control", content)
    path.chmod(0o600)
    controller = Controller(Scripted(reserve=lambda engine: 0))
    command = ControlFile(path, clock=FakeClock()).poll()
    if command is not None:
        obey(command, controller, resolve)
        assert controller.active == (command != "off")


def _policy_spec(content: bytes) -> None:
    for policy in resolve_all(_text(content)):
        assert Controller(policy).active


def _options(kind: type, needed: dict[str, int], content: bytes) -> object | None:
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return None  # a caller in Python; only the values are in question
    names = {field.name for field in fields(kind)}
    return (
        kind(**needed | {k: v for k, v in given.items() if k in names}) if isinstance(given, dict) else None
    )


def _engine_config(content: bytes) -> None:
    config = _options(EngineConfig, {"num_gpu_blocks": 10}, content)
    assert config is None or (config.model_len >= 1 and config.watermark_blocks >= 0)


def _sglang_config(content: bytes) -> None:
    config = _options(SglangConfig, {"max_total_tokens": 100}, content)
    assert config is None or (config.model_len >= 1 and config.max_num_batched_tokens >= 1)


def _settings(content: bytes) -> None:
    """Settings that only code gives: numbers and texts of the right kinds, but any values."""
    numbers = {k: v for k, v in _object(content).items() if isinstance(v, int | float)}
    for kind in (BidKVConfig, SolverConfig, PressureConfig, QueueingConfig):
        _options(kind, {}, json.dumps(numbers).encode())


def _object(content: bytes) -> dict[str, object]:
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _client_values(content: bytes) -> None:
    for value in _object(content).values():
        number, cap = positive_number(value), shown_cap(value)
        assert number is None or 0.0 < number < float("inf")
        assert cap is None or cap >= 0
        assert len(agent_name(value)) <= LONGEST_NAME


def _trace(trace_format: str, content: bytes) -> None:
    rate = 1.0 if trace_format in ("lengths", "auto") else None
    for request in islice(
        read_trace(file("trace", content), trace_format=trace_format, rate_rps=rate), MOST_ROWS
    ):
        assert request.prompt_tokens >= 1 <= request.output_tokens


TRACES = Path(__file__).parents[1] / "data" / "traces"
SEEDS_OF_FORMAT = {
    "mooncake-sessions": ("aiperf.jsonl", "whole-prompts.jsonl", "dynamo-sessions.jsonl"),
    "dynamo": ("dynamo.jsonl",),
    "guidellm": ("guidellm.jsonl",),
    "bailian": ("bailian.jsonl",),
    "tracelab": ("tracelab.jsonl",),
    "spans": ("otlp.json", "spans.jsonl"),
    "chats": ("sharegpt.json", "chats.jsonl"),
    "burstgpt": ("burstgpt-6.csv", "burstgpt-8.csv"),
    "vidur": ("vidur.csv",),
    "vllm-bench": ("vllm-bench.json",),
    "columns": ("server-log.csv",),
}
"""Small files of every format that has no seed of its own here."""

STATED = TraceOptions(
    characters_per_token=4.0,
    tokens_per_image=10,
    columns={"time": "when", "prompt": "in", "output": "out", "agent": "client", "priority": "urgency"},
)


def _any_trace(trace_format: str, content: bytes) -> None:
    """As a format is read by name, and as a file whose content tells it."""
    path = file("trace", content)
    errors = []
    for name in (trace_format, "auto"):
        options = STATED if name in ("columns", "chats") else TraceOptions()
        try:
            trace = open_trace(path, trace_format=name, options=options)
            if trace.has_sessions:
                for session in trace.sessions():
                    assert min(session.prompt_lengths()) >= 1
            else:
                last_s = 0.0
                for request in islice(trace.requests(), MOST_ROWS):
                    assert request.prompt_tokens >= 1
                    assert request.output_tokens >= 1
                    assert request.arrival_s >= last_s
                    last_s = request.arrival_s
            assert all(trace.report.lines())
        except TraceError as error:
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]


def _packed_trace(content: bytes) -> None:
    """Files that are unpacked on the way, or read by another library."""
    _any_trace("vidur", content)


def _config_file(content: bytes) -> None:
    path = file("run.toml", content)
    for command in COMMANDS:
        assert all(stated.line >= 0 for stated in read_config(path, command).values())


def _comparison(content: bytes) -> None:
    read = [read_simulation(file("a.json", content))]
    other = [read_simulation(file("b.json", a_simulation()))]
    json.dumps(compare_sides(read, other, any_workload=True).as_dict(), allow_nan=False)


def _stated_columns(content: bytes) -> None:
    options = TraceOptions.from_statements({"columns": _text(content)})
    assert options.columns


def _manifest(content: bytes) -> None:
    path = SCRATCH / "frozen.jsonl"
    manifest_path(path).write_bytes(content)
    list(load_frozen(path)[1])


def _step_log(content: bytes) -> None:
    assert len(read_step_log(file("steps.csv", content))) >= 1


def _experiment(content: bytes) -> None:
    folder = SCRATCH / "experiment"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    plan = Store.open(folder).plan
    assert all(str(cell) for cell in islice(plan.cells(), MOST_ROWS))


def _decision_log(content: bytes) -> None:
    path = file("decisions.jsonl", content)
    lines = list(read_log(path))
    for story in stories(lines).values():
        json.dumps(story_as_dict(story))
        assert format_story(story)
    assert sum(1 for event in trace_events(lines) if json.dumps(event)) >= 3
    assert len(replay(lines, [("lcf", resolve("lcf"))]).scores) == 2


@cache
def _experiment_with_a_failure() -> Store:
    folder = SCRATCH / "failed"
    (folder / "failures").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(an_experiment())
    store = Store.open(folder)
    store.save_failure(next(iter(store.plan.cells())), "none")
    return store


def _stored_failure(content: bytes) -> None:
    store = _experiment_with_a_failure()
    next((store.folder / "failures").iterdir()).write_bytes(content)
    assert all(isinstance(error, str) for error in store.failures().values())


def _samples(content: bytes) -> None:
    report, samples = read_samples(file("samples.jsonl", content))
    assert report.as_dict()
    assert all(sample.tokens >= 0 for sample in samples)


def _metrics_page(content: bytes) -> None:
    text = content.decode(errors="replace")
    samples = parse_samples([text], 1.0)
    samples.quantile("x", 0.5)
    samples.get("x", "y")


def _exporter_page(content: bytes) -> None:
    reading = parse_exporter(content.decode(errors="replace"))
    assert reading.point(0.0, 0).time_s == 0.0
    assert reading.idle in (True, False)


def _recorder_notes(content: bytes) -> None:
    file("noted.meta.json", content)
    read_graphs(SCRATCH / "noted.csv")


def _recording(content: bytes) -> None:
    requests, _, steps = content.partition(b"\n\n")
    recording = read_recording(file("requests.csv", requests), file("recorded.csv", steps))
    assert recording.steps >= 1


def _validation_plan(content: bytes) -> None:
    for run in read_runs(file("plan.json", content)):
        assert run["blocks"] >= 1


def _vocabulary(content: bytes) -> None:
    folder = SCRATCH / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(content)
    assert read_vocabulary(str(folder)) >= 1


# --- all of them --------------------------------------------------------------------------------------
def readers() -> Iterator[Reader]:
    """Yield all readers; makes their valid inputs."""
    profile = dump_profile(steady_profile()).encode()
    yield Reader("profile", _profile, (ProfileError,), (profile,))
    yield Reader("model-config", _model_config, (ProfileError,), (json.dumps(MODEL).encode(),))
    yield Reader("result", _result, (SchemaError,), (a_result(),))
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
    yield Reader(
        "sglang-config",
        _sglang_config,
        (ValueError,),
        (
            b'{"max_total_tokens": 4096, "page_size": 16, "chunked_prefill_size": null, "context_length": 9}',
            b'{"schedule_conservativeness": 0.3, "init_new_token_ratio": 0.7, "clip_max_new_tokens": 4}',
        ),
    )
    yield Reader(
        "settings",
        _settings,
        (ValueError,),
        (
            b'{"delta_budget": 0.5, "max_bids_per_solve": 4, "truncation_ratio": 0.5, "threshold_pct": 0.8}',
            b'{"min_free_tokens": 10, "release_pct": 0.5, "block_size": 16, "concurrency": 4}',
        ),
    )
    yield Reader(
        "client-values",
        _client_values,
        (),
        (b'{"bidkv_weight": 2.5, "bidkv_deadline_ms": "100", "bidkv_agent_id": "a", "bidkv_cap": 300}',),
    )
    for name, seed in (("mooncake", MOONCAKE), ("azure", AZURE), ("lengths", LENGTHS)):
        yield Reader(f"trace-{name}", partial(_trace, name), (TraceError,), (seed,))
    yield Reader("trace-auto", partial(_trace, "auto"), (TraceError,), (MOONCAKE, AZURE, LENGTHS))
    for name, files in SEEDS_OF_FORMAT.items():
        seeds = tuple((TRACES / seed).read_bytes() for seed in files)
        yield Reader(f"trace-{name}", partial(_any_trace, name), (TraceError,), seeds)
    yield Reader("trace-packed", _packed_trace, (TraceError,), packed_traces())
    yield Reader("stated-columns", _stated_columns, (ValueError,), (b"time=a,prompt=b,output=c,session=d",))
    yield Reader("config-file", _config_file, (ConfigError,), (CONFIG,))
    yield Reader("comparison", _comparison, (ComparisonError,), (a_simulation(),))
    yield Reader("manifest", _manifest, (TraceError,), (a_manifest(),))
    yield Reader("step-log", _step_log, (StepLogError,), (STEPS,))
    yield Reader("experiment", _experiment, (StoreError,), (an_experiment(),))
    yield Reader("decision-log", _decision_log, (LogError,), (a_decision_log(),))
    yield Reader("stored-failure", _stored_failure, (StoreError,), (b'{"cell": "a", "error": "it broke"}',))
    yield Reader("samples", _samples, (ValueError,), (some_samples(),))
    yield Reader("metrics-page", _metrics_page, (ValueError,), (PAGE,))
    yield Reader("exporter-page", _exporter_page, (ValueError,), (EXPORTER,))
    yield Reader(
        "recorder-notes",
        _recorder_notes,
        (ValueError,),
        (b'{"graph_max_tokens": 512, "cudagraph_mode": "FULL_AND_PIECEWISE"}',),
    )
    yield Reader("recording", _recording, (TraceError,), (RECORDED,))
    yield Reader("validation-plan", _validation_plan, (ValueError,), (json.dumps(RUNS).encode(),))
    yield Reader("vocabulary", _vocabulary, (ValueError,), (json.dumps(MODEL).encode(),))


def feed(reader: Reader, content: bytes) -> bool:
    """Feed one input; tells whether it was taken, False after a documented error with a message to read."""
    try:
        reader.read(content)
    except reader.errors as error:
        if not 0 < len(str(error)) < LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return False
    return True
