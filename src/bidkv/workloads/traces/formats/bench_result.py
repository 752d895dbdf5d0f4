"""Results of `vllm bench serve --save-result --save-detailed`: one JSON object with lists, a value a request.

`input_lens` and `output_lens` (tokens), and `start_times` (seconds on the benchmark's clock) where the
version of vLLM writes them. A request that failed has no output tokens and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.columns import NO_ANSWER, NO_PROMPT
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import parse_count, parse_number


def _result(source: Source) -> dict[str, Any] | None:
    """The result a file holds, or None; appended results stand on lines of their own, and the last counts."""
    if source.container == "json" and isinstance(source.document, dict):
        return source.document
    if source.container == "json lines" and source.sample:
        return source.sample[-1][1]
    return None


def _matches(source: Source, options: TraceOptions) -> bool:
    result = _result(source)
    return result is not None and type(result.get("input_lens")) is list and "output_lens" in result


def _has_times(source: Source, options: TraceOptions) -> bool:
    result = _result(source)
    return result is None or bool(result.get("start_times"))


def _requests(
    source: Source, options: TraceOptions, report: TraceReport, timing: Timing
) -> Iterator[WorkloadRequest]:
    file = str(source.path)
    result = _result(source) or {}
    prompts, outputs, times = (
        _list(file, result, name) for name in ("input_lens", "output_lens", "start_times")
    )
    if len(outputs) != len(prompts):
        fail(file, 0, "output_lens", f"{len(prompts):,} values, as input_lens has", outputs)
    if times and len(times) != len(prompts):
        fail(file, 0, "start_times", f"{len(prompts):,} values, as input_lens has", times)
    errors = _list(file, result, "errors")
    rows = []
    for place, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        prompt_tokens = parse_count(file, place + 1, "input_lens", prompt)
        output_tokens = parse_count(file, place + 1, "output_lens", output)
        if not prompt_tokens or not output_tokens or (place < len(errors) and errors[place]):
            report.leave_out(NO_PROMPT if not prompt_tokens else NO_ANSWER)
            continue
        time_s = 0.0
        if times:
            time_s = float(parse_number(file, place + 1, "start_times", times[place], "a number of seconds"))
        rows.append((time_s, place, prompt_tokens, output_tokens))
    if not rows:
        fail(file, 0, "", "at least one request with a prompt and an answer")
    rows.sort()
    if times:
        report.time_unit = "s"
        report.note("the first request of the benchmark arrives at 0 s")
    first_s = rows[0][0]
    for index, (time_s, _, prompt_tokens, output_tokens) in enumerate(rows):
        arrival_s = next(timing.given_s) if timing.given_s is not None else time_s - first_s
        arrival_s = (arrival_s - timing.start_s) * timing.stretch
        yield WorkloadRequest(f"r{index}", arrival_s, prompt_tokens, output_tokens)


def _list(file: str, result: dict[str, Any], name: str) -> list[Any]:
    values = result.get(name)
    if values is None:
        return []
    if type(values) is not list:
        fail(file, 0, name, "a list of numbers", values)
    return values


BENCH_RESULT = Format(
    "vllm-bench",
    "the result of `vllm bench serve --save-detailed`: input_lens, output_lens and start_times (s)",
    _matches,
    _requests,
    has_times=_has_times,
)
