"""Request bodies, encoded before the run: token ids for prompts, in the words of each server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

Dialect = Literal["vllm", "sglang"]
PATHS: Mapping[Dialect, str] = {"vllm": "/v1/completions", "sglang": "/generate"}

_LOWEST_TOKEN = 10
"""Lower ids are control tokens in most vocabularies."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be sent.

    Attributes:
        request_id: as in the workload.
        due_s: seconds after the start of the run.
        body: the encoded JSON.
        tokens: output tokens that a whole answer has.
    """

    request_id: str
    due_s: float
    body: bytes
    tokens: int


def prepare(
    requests: Sequence[WorkloadRequest], dialect: Dialect, model: str, vocabulary: int, salt: str
) -> list[Prepared]:
    """Encode a workload for a server.

    Args:
        requests: in order of arrival.
        dialect: whose words.
        model: the model's name, as the server calls it.
        vocabulary: token ids are below this.
        salt: other text, other tokens: two runs share no prefix in the server's cache by accident.

    Raises:
        ValueError: a vocabulary too small to draw from.
    """
    if vocabulary <= _LOWEST_TOKEN:
        raise ValueError(f"vocabulary must be above {_LOWEST_TOKEN}, got {vocabulary}")
    body = {"vllm": _vllm_body, "sglang": _sglang_body}[dialect]
    draw = prompt_source(vocabulary, salt)
    return [
        Prepared(r.request_id, r.arrival_s, json.dumps(body(r, draw(r), model)).encode(), r.output_tokens)
        for r in requests
    ]


def prompt_source(vocabulary: int, salt: str) -> Callable[[WorkloadRequest], list[int]]:
    """Return what makes a request's prompt: equal hash ids give equal chunks, all else is drawn."""
    ids = range(_LOWEST_TOKEN, vocabulary)

    @lru_cache(maxsize=4096)
    def chunk(hash_id: int) -> list[int]:
        return Random(f"{salt}:chunk:{hash_id}").choices(ids, k=HASH_CHUNK_TOKENS)

    def prompt(request: WorkloadRequest) -> list[int]:
        shared = [token for hash_id in request.hash_ids for token in chunk(hash_id)][: request.prompt_tokens]
        rest = request.prompt_tokens - len(shared)
        return shared + Random(f"{salt}:{request.request_id}").choices(ids, k=rest)

    return prompt


def _extras(request: WorkloadRequest) -> dict[str, Any]:
    """What a policy may know beyond the prompt, under the names the adapters read."""
    # The output length that a request is ended at is the truth, which no policy may see; a stated cap it may.
    extras: dict[str, Any] = {"bidkv_max_tokens": request.max_tokens or 0}
    if request.deadline_ms is not None:
        extras["bidkv_deadline_ms"] = request.deadline_ms
    if request.weight != 1.0:
        extras["bidkv_weight"] = request.weight
    if request.agent_id:
        extras["bidkv_agent_id"] = request.agent_id
    return extras


def _vllm_body(request: WorkloadRequest, prompt: list[int], model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        # Chunks are not tokens: a busy server sends several at once and says how many there are by now.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "vllm_xargs": _extras(request),
    }
    if request.priority:
        body["priority"] = request.priority
    return body


def _sglang_body(request: WorkloadRequest, prompt: list[int], model: str) -> dict[str, Any]:
    sampling: dict[str, Any] = {
        "max_new_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "custom_params": _extras(request),
    }
    body: dict[str, Any] = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
    if request.priority:
        body["priority"] = -request.priority
    return body


def tokens_so_far(dialect: Dialect, event: Mapping[str, Any]) -> int | None:
    """Return how many output tokens a server's event says there are by now; None when it says nothing.

    Raises:
        ValueError: the event is an error of the server.
    """
    if "error" in event:
        raise ValueError(f"server: {str(event['error'])[:200]}")
    counts = event.get("usage") if dialect == "vllm" else event.get("meta_info")
    if not isinstance(counts, Mapping):
        return None
    count = counts.get("completion_tokens")
    return count if isinstance(count, int) else None
