"""Request bodies, encoded before the run: token ids as prompts, in each server's own format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.token_ids import prompt_source, require_vocabulary

Dialect = Literal["vllm", "sglang"]
"""Which server's request format."""

PATHS: Mapping[Dialect, str] = {"vllm": "/v1/completions", "sglang": "/generate"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be sent.

    Attributes:
        request_id: as in the workload.
        due_s: seconds after the start of the run.
        body: the encoded JSON.
        tokens: output tokens of a complete answer.
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
        dialect: of the server's requests.
        model: the model's name, as the server calls it.
        vocabulary: token ids are below this.
        salt: another salt gives other tokens, so that two runs share no prefix in the server's cache.

    Raises:
        ValueError: a vocabulary too small to draw from.
    """
    require_vocabulary(vocabulary)
    draw = prompt_source(vocabulary, salt)
    prepared = []
    for request in requests:
        body = make_body(dialect, request, draw(request), model, request_extras(request))
        encoded = json.dumps(body).encode()
        prepared.append(Prepared(request.request_id, request.arrival_s, encoded, request.output_tokens))
    return prepared


def request_extras(request: WorkloadRequest) -> dict[str, Any]:
    """Return what a policy may know beyond the prompt, under the names that the adapters read."""
    # The length at which a request ends is hidden from policies; a cap that its sender stated is not.
    extras: dict[str, Any] = {"bidkv_max_tokens": request.max_tokens or 0}
    if request.deadline_ms is not None:
        extras["bidkv_deadline_ms"] = request.deadline_ms
    if request.weight != 1.0:
        extras["bidkv_weight"] = request.weight
    if request.agent_id:
        extras["bidkv_agent_id"] = request.agent_id
    return extras


def make_body(
    dialect: Dialect, request: WorkloadRequest, prompt: Sequence[int], model: str, extras: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the body of a streamed completion that ends exactly at the request's output length.

    Args:
        dialect: whose fields it uses.
        request: its lengths and priority.
        prompt: token ids.
        model: the model's name, as the server calls it; SGLang's endpoint takes none.
        extras: what the adapters read beyond the prompt.
    """
    if dialect == "vllm":
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            # Chunks are not tokens: a busy server sends several at once, so it is asked for the count so far.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "vllm_xargs": extras,
        }
    else:
        sampling = {
            "max_new_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "custom_params": extras,
        }
        body = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
    if request.priority:
        # SGLang's sign is the other one: higher is more important.
        body["priority"] = request.priority if dialect == "vllm" else -request.priority
    return body


def tokens_so_far(dialect: Dialect, event: Mapping[str, Any]) -> int | None:
    """Return the number of output tokens so far by a server's event; None when it states none.

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
