"""Run the cells of a calibration grid on a vLLM engine and record every step's batch and duration."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from bidkv.gpu_host.calibration_grid import STEPS_PER_STAIR, GridCell

Row = dict[str, float]
"""One step, by column of :mod:`bidkv.calibration.step_columns`."""


class OutOfTime(Exception):
    """The time limit has passed; the cell in progress is dropped."""


class Recorder:
    """One engine and the batch of its latest step.

    Args:
        engine: a vLLM ``LLMEngine`` whose core lives in this process.
        clock: seconds, monotonic.
        deadline_s: on that clock; no step starts after it.
        seed: of prompt tokens and lengths.
    """

    def __init__(self, engine: Any, clock: Callable[[], float], deadline_s: float, seed: int) -> None:
        self.engine = engine
        self.scheduler = engine.engine_core.engine_core.scheduler
        self._clock = clock
        self._deadline_s = deadline_s
        self._random = Random(seed)
        self._serial = 0
        self._batch: Row = {}
        self._looking_s = 0.0
        self._vocabulary = engine.vllm_config.model_config.get_vocab_size()
        self._schedule = self.scheduler.schedule
        self.scheduler.schedule = self._watched_schedule

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the KV cache holds, without the null block."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return int((pool.num_gpu_blocks - 1) * self.engine.vllm_config.cache_config.block_size)

    def record(self, cell: GridCell) -> list[Row]:
        """Run `cell` and return its steps.

        Raises:
            OutOfTime: the deadline has passed; the engine is idle again nevertheless.
        """
        self.scheduler.max_num_scheduled_tokens = cell.chunk
        rows: list[Row] = []
        live: set[str] = set()
        try:
            self._add_decoders(cell, live)
            self._step_until(rows, live, lambda: not self._batch["prefill"] and not self._batch["waiting"])
            if not cell.injections:
                self._step_until(rows, live, lambda: False)
            for injection in cell.injections:
                live.update(self._add(injection.prompt_tokens, 1) for _ in range(injection.prompts))
                self._step_until(rows, live, lambda: len(live) == cell.requests)
                self._step_until(rows, live, lambda: True)  # a pure decode step between two mixed ones
        finally:
            if live:
                self.engine.abort_request(sorted(live))
        place = {"cell": cell.number, "conc": cell.requests, "plen": cell.prompt_tokens, "chunk": cell.chunk}
        return [place | row for row in rows]

    def _add_decoders(self, cell: GridCell, live: set[str]) -> None:
        spread = cell.prompt_tokens // 8
        for index in range(cell.requests):
            length = cell.prompt_tokens + self._random.randint(-spread, spread)
            outputs = cell.output_tokens
            if not cell.injections:  # a staircase: one request finishes every few steps
                outputs -= STEPS_PER_STAIR * index
            live.add(self._add(length, outputs))

    def _add(self, prompt_tokens: int, output_tokens: int) -> str:
        from vllm import SamplingParams

        self._serial += 1
        name = f"calibration-{self._serial}"
        tokens = self._random.choices(range(self._vocabulary), k=prompt_tokens)
        parameters = SamplingParams(
            max_tokens=output_tokens, ignore_eos=True, temperature=0.0, detokenize=False
        )
        self.engine.add_request(name, {"prompt_token_ids": tokens}, parameters)
        return name

    def _step_until(self, rows: list[Row], live: set[str], done: Callable[[], bool]) -> None:
        """Step, at least once, until `done` or until no request is left."""
        while live:
            if self._clock() >= self._deadline_s:
                raise OutOfTime
            self._batch, self._looking_s = {}, 0.0
            started = self._clock()
            outputs = self.engine.step()
            took_s = self._clock() - started - self._looking_s
            live -= {output.request_id for output in outputs if output.finished}
            if not self._batch:  # the engine had nothing to schedule
                break
            rows.append({"step_s": took_s, **self._batch})
            if done():
                break

    def _watched_schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = self._schedule(*args, **kwargs)
        started = self._clock()
        self._batch = describe_batch(self.scheduler, output.num_scheduled_tokens)
        self._looking_s += self._clock() - started
        return output


def describe_batch(scheduler: Any, scheduled: dict[str, int]) -> Row:
    """Return a step's batch as the columns of a step log; to be called right after the step was scheduled."""
    prefill = decode = context = prefills = 0
    attention = 0.0
    for request_id, tokens in scheduled.items():
        request = scheduler.requests[request_id]
        computed = request.num_computed_tokens  # already advanced over this step's tokens
        before = computed - tokens
        context += computed
        # With asynchronous scheduling, a request's tokens in flight, this step's included, are not known yet.
        ahead = max(0, request.num_output_placeholders - 1)
        known = request.num_output_tokens + ahead
        if tokens == 1 and known and computed == request.num_tokens + ahead:
            decode += 1
        else:
            prefill += tokens
            prefills += 1
            attention += tokens * (before + tokens / 2)
    return {
        "tokens": prefill + decode,
        "prefill": prefill,
        "decode": decode,
        "context": context,
        "prefill_attention": attention,
        "num_prefills": prefills,
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting),
        "free_blocks": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
    }
