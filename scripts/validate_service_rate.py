"""Print the tables of docs/results/service-rate.md: the service-rate model against the simulator.

Usage: python scripts/validate_service_rate.py rates [TRACE_DIRECTORY]
       python scripts/validate_service_rate.py verdicts [TRACE_DIRECTORY]
       python scripts/validate_service_rate.py loads [TRACE_DIRECTORY]
       python scripts/validate_service_rate.py recorded
       python scripts/validate_service_rate.py engine

TRACE_DIRECTORY may hold the full traces (AzureLLMInferenceTrace_conv.csv, mooncake_conversation_trace.jsonl);
without it the slices that ship are used.
"""

import csv
import statistics
import sys
from itertools import accumulate
from pathlib import Path
from random import Random

from bidkv.baselines import ENGINE_ORDER
from bidkv.evaluation.saturation import measure_saturation, poisson_requests, rate_while_waiting
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results.codec import decode
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import (
    EmpiricalLaw,
    LengthLaw,
    LoadVerdict,
    ReplicaModel,
    ReplicaShape,
    ServiceRate,
    UniformLaw,
    assess,
    service_rate,
)
from bidkv.workloads.traces import read_trace

PROFILES = ("h100-llama3.1-8b", "h100-llama3.1-8b-nocompile")
TRAFFIC_PROFILE = "h100-llama3.1-8b-traffic"
SHAPES = ((600, 32), (2048, 128), (8192, 256))
LARGE_SHAPES = ((8192, 256), (16384, 256), (32768, 256))
UNIFORM = (
    UniformLaw((10, 1600), (10, 1600)),
    UniformLaw((10, 2133), (10, 1066)),
    UniformLaw((10, 1066), (10, 2133)),
)
REQUESTS = 4000
RECORDED = Path(__file__).parents[1] / "tests" / "data" / "h100"
SCENARIOS = 200


def drawn(law: UniformLaw, count: int, random: Random) -> list[tuple[int, int]]:
    return [(random.randint(*law.prompt), random.randint(*law.output)) for _ in range(count)]


def traces(directory: Path | None) -> dict[str, list[tuple[int, int]]]:
    full = {
        "azure-conv": "AzureLLMInferenceTrace_conv.csv",
        "mooncake-conv": "mooncake_conversation_trace.jsonl",
    }
    read = {}
    for name, file in full.items():
        source = name if directory is None else directory / file
        pairs = [(r.prompt_tokens, r.output_tokens) for r in read_trace(source)]
        Random(1).shuffle(pairs)
        read[name] = pairs[:REQUESTS]
    return read


def predicted(law: LengthLaw, blocks: int, seqs: int, profile: StepTimeProfile) -> ServiceRate:
    shape = ReplicaShape(blocks, max_num_seqs=seqs)
    timed = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens)
    return service_rate(law, shape, timed.step_s)


def engine(blocks: int, seqs: int) -> EngineConfig:
    return EngineConfig(num_gpu_blocks=blocks + 1, max_num_seqs=seqs)


def rates(directory: Path | None) -> None:
    cases = []
    for law in UNIFORM:
        name = f"U{law.prompt} x U{law.output}"
        cases += [(name, law, drawn(law, REQUESTS, Random(1)), shape) for shape in SHAPES]
    for name, pairs in traces(directory).items():
        shapes = LARGE_SHAPES if name.startswith("mooncake") else SHAPES
        cases += [(name, EmpiricalLaw.from_pairs(pairs), pairs, shape) for shape in shapes]
    print(
        "| lengths | profile | blocks / sequences | simulated req/s | model | error | plain formula | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    errors, plain_errors = [], []
    for profile_name in PROFILES:
        profile = load_profile(profile_name)
        for name, law, pairs, (blocks, seqs) in cases:
            measured = measure_saturation(pairs, engine(blocks, seqs), profile).rate_rps
            rate = predicted(law, blocks, seqs, profile)
            error = 100.0 * (rate.sustainable_rps / measured - 1.0)
            plain = 100.0 * (rate.plain_rps / measured - 1.0)
            errors.append(abs(error))
            plain_errors.append(abs(plain))
            print(f"| {name} | {profile_name} | {blocks} / {seqs} | {measured:.3f}", end=" ")
            print(f"| {rate.sustainable_rps:.3f} | {error:+.1f} %", end=" ")
            print(f"| {rate.plain_rps:.3f} | {plain:+.1f} % |", flush=True)
    print(f"\nmodel: median {statistics.median(errors):.1f} %, worst {max(errors):.1f} %")
    print(f"plain formula: median {statistics.median(plain_errors):.1f} %, worst {max(plain_errors):.1f} %")


def scenario(random: Random, recorded: dict[str, list[tuple[int, int]]]) -> tuple[LengthLaw, list, int, int]:
    blocks = round(2 ** random.uniform(9.3, 13.5))
    seqs = random.choice((32, 64, 128, 256))
    if random.random() < 0.4:
        name = random.choice(sorted(recorded))
        pairs = recorded[name]
        return (
            EmpiricalLaw.from_pairs(pairs),
            pairs,
            max(blocks, 8192 if name.startswith("mooncake") else 0),
            seqs,
        )
    law = UniformLaw((10, random.randint(50, 3000)), (10, random.randint(50, 2000)))
    return law, drawn(law, REQUESTS, random), blocks, seqs


def verdicts(directory: Path | None) -> None:
    random, recorded = Random(5), traces(directory)
    right = uncertain = dangerous = 0
    errors = []
    for _ in range(SCENARIOS):
        law, pairs, blocks, seqs = scenario(random, recorded)
        profile = load_profile(random.choice(PROFILES))
        boundary = measure_saturation(pairs, engine(blocks, seqs), profile).rate_rps
        ratio = random.choice((random.uniform(0.5, 0.95), random.uniform(1.05, 1.5)))
        rate = predicted(law, blocks, seqs, profile)
        verdict = assess(ratio * boundary, rate).verdict
        right += verdict is (LoadVerdict.STABLE if ratio < 1.0 else LoadVerdict.UNSTABLE)
        uncertain += verdict is LoadVerdict.UNCERTAIN
        dangerous += verdict is LoadVerdict.STABLE and ratio > 1.0
        errors.append(abs(rate.sustainable_rps / boundary - 1.0))
    print(f"{right} of {SCENARIOS} right, {uncertain} called uncertain,", end=" ")
    print(f"{dangerous} called stable while queues grow")
    print(f"rate error: median {100 * statistics.median(errors):.1f} %, worst {100 * max(errors):.1f} %")


def loads(directory: Path | None) -> None:
    recorded = traces(directory)
    even = UNIFORM[0]
    cases = [("U(10,1600)^2", even, drawn(even, REQUESTS, Random(1)), shape) for shape in SHAPES[::2]]
    cases += [(n, EmpiricalLaw.from_pairs(p), p, (16384, 256)) for n, p in recorded.items()]
    cases += [
        ("azure-conv", EmpiricalLaw.from_pairs(recorded["azure-conv"]), recorded["azure-conv"], (2048, 128))
    ]
    profile = load_profile(PROFILES[0])
    print("| lengths | blocks / sequences | utilization | KV in use | ms a token | first token s | its p99 |")
    print("|---|---|---|---|---|---|---|")
    for name, law, pairs, (blocks, seqs) in cases:
        shape = ReplicaShape(blocks, max_num_seqs=seqs)
        model = ReplicaModel(law, shape, profile.for_engine(seqs, shape.max_num_batched_tokens).step_s)
        for utilization in (0.3, 0.6, 0.8, 0.9):
            rate = utilization * model.sustainable_rps
            point = model.at(rate)
            run = simulate(
                poisson_requests(pairs, rate, 2), resolve(ENGINE_ORDER), engine(blocks, seqs), profile
            )
            seen = run.summary()
            figures = (
                (100 * point.memory_fill, 100 * seen["kv_utilization_mean"], ".0f"),
                (1e3 * point.tpot_s, 1e3 * seen["tpot_s"]["mean"], ".1f"),
                (point.ttft_s, seen["ttft_s"]["mean"], ".2f"),
                (point.ttft_p99_s, seen["ttft_s"]["p99"], ".2f"),
            )
            cells = " | ".join(
                f"{model_value:{form}} / {value:{form}}" for model_value, value, form in figures
            )
            print(f"| {name} | {blocks} / {seqs} | {utilization:.0%} | {cells} |", flush=True)


def recorded_run(_: Path | None) -> None:
    """The overloaded stretch of the recorded run: from the 50th end to the last moment with a queue."""
    with (RECORDED / "run_compiled.requests.csv").open() as file:
        requests = list(csv.DictReader(file))
    with (RECORDED / "run_compiled.steps.csv").open() as file:
        steps = [(float(row["step_s"]), int(row["waiting"])) for row in csv.DictReader(file)]
    ends = sorted(float(row["finish"]) for row in requests)
    times = list(accumulate(seconds for seconds, _ in steps))
    since = ends[50]
    until = max(at for at, (_, waiting) in zip(times, steps, strict=True) if waiting)
    measured = sum(since < at <= until for at in ends) / (until - since)
    law = EmpiricalLaw.from_pairs((int(row["prompt"]), int(row["output"])) for row in requests)
    rate = predicted(law, 599, 32, load_profile(PROFILES[0]))
    counted = [seconds for at, (seconds, _) in zip(times, steps, strict=True) if since < at <= until]
    for name, value in (
        ("measured", measured),
        ("model", rate.sustainable_rps),
        ("plain formula", rate.plain_rps),
    ):
        print(f"{name:<14} {value:6.2f} req/s {100 * (value / measured - 1):+6.1f} %")
    print(f"mean step      {1e3 * statistics.fmean(counted):6.2f} ms, model {1e3 * rate.mean_step_s:.2f} ms")


def engine_runs(_: Path | None) -> None:
    """Compare runs of a real engine, all requests there from the start, with the same ones simulated."""
    profile = load_profile(TRAFFIC_PROFILE)
    print("| run | steps, preemptions: real | simulated | real req/s | simulator | model | plain formula |")
    print("|---|---|---|---|---|---|---|")
    for file in sorted((RECORDED / "traffic" / "validation").glob("law-*.json")):
        real = decode(file.read_text(), file.name)
        records = sorted(real.records, key=lambda r: int(r.request_id.strip("abcdefghijklmnopqrstuvwxyz-")))
        requests = [WorkloadRequest(r.request_id, 0.0, r.prompt_tokens, r.output_tokens) for r in records]
        run = simulate(requests, resolve(ENGINE_ORDER), engine(2048, 256), profile)
        law = EmpiricalLaw.from_pairs((r.prompt_tokens, r.output_tokens) for r in records)
        rate = predicted(law, 2048, 256, profile)
        measured = rate_while_waiting(real)
        shown = (rate_while_waiting(run), rate.sustainable_rps, rate.plain_rps)
        cells = " | ".join(f"{value:.2f} ({100 * (value / measured - 1):+.1f} %)" for value in shown)
        counts = " | ".join(f"{r.totals.steps}, {r.totals.preemptions}" for r in (real, run))
        print(f"| {file.stem} | {counts} | {measured:.2f} | {cells} |")


COMMANDS = {
    "rates": rates,
    "verdicts": verdicts,
    "loads": loads,
    "recorded": recorded_run,
    "engine": engine_runs,
}

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](Path(sys.argv[2]) if len(sys.argv) == 3 else None)
