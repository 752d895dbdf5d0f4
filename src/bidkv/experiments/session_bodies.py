"""Requests of sessions: each turn repeats its conversation, by token ids or by chat messages.

The answers that the server really gave are fed back. By token ids the past stays exactly what the server
computed; by messages the server's chat template decides what the model sees, as with real clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol

from bidkv.experiments.request_bodies import PATHS, Dialect, make_body, request_extras
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.content import answer_key
from bidkv.workloads.token_ids import ConversationTokens

Endpoint = Literal["completions", "chat"]

CHAT_PATH = "/v1/chat/completions"

_TEXT = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not "
    "but what all were when we there can an your which their said if do will each about how up out them "
    "then she many some so these would other into has more her two like him see time could no make than "
    "first been its now people my made over did down only way find use may water long little very after "
    "words called just where most know get through back much go good new write our me man too any day "
    "same right look think also"
)
_WORDS = tuple(_TEXT.split())
"""Common English words, each a single token in most vocabularies."""


@dataclass(slots=True)
class Answer:
    """What has come of one answer.

    Attributes:
        tokens: output tokens by the server's count.
        token_ids: their ids where the server tells them.
        text: its text; reasoning that the server reports apart is not part of it.
        prompt_tokens: length of the prompt by the server's count; None when it does not say.
        cached_tokens: prompt tokens found in the prefix cache; None when the server does not say.
    """

    tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Conversations(Protocol):
    """Writes the requests of sessions and remembers their answers."""

    @property
    def path(self) -> str:
        """Of the endpoint, below the server's base URL."""

    def write_body(self, request: WorkloadRequest) -> bytes:
        """Return the encoded body of a turn."""

    def take_event(self, event: Mapping[str, Any], answer: Answer) -> int:
        """Take a server's event into the answer; return how many new tokens it brought.

        Raises:
            ValueError: the event is an error of the server.
        """

    def keep_answer(self, request: WorkloadRequest, answer: Answer) -> None:
        """Take a complete answer into the session's past."""

    def forget(self, session_id: str) -> None:
        """The session is over."""


def session_extras(request: WorkloadRequest, *, told: bool) -> dict[str, Any]:
    """Return what a client tells the adapter with a turn; without the session when it is not `told`."""
    extras = request_extras(request)
    if told:
        extras["bidkv_session_id"] = request.session_id
        if request.is_last_turn:
            extras["bidkv_session_end"] = 1
        if request.gap_hint_s is not None:
            extras["bidkv_gap_hint_s"] = request.gap_hint_s
    return extras


class TokenConversations:
    """Conversations by token ids, on the server's own generation endpoint.

    Where a server does not tell an answer's ids, as many random ones stand in for them: lengths stay right,
    but the answers are not found in the prefix cache.

    Args:
        dialect: format of the requests.
        model: the model's name, as the server calls it.
        vocabulary: token ids are below this.
        salt: another salt gives other tokens.
        told: whether the client names the session of each request.
    """

    def __init__(self, dialect: Dialect, model: str, vocabulary: int, salt: str, *, told: bool) -> None:
        self.path = PATHS[dialect]
        self._dialect = dialect
        self._model = model
        self._told = told
        self._tokens = ConversationTokens(vocabulary, salt)

    def write_body(self, request: WorkloadRequest) -> bytes:
        """Return the encoded body of a turn."""
        prompt = self._tokens.write_prompt(request)
        extras = session_extras(request, told=self._told)
        body = make_body(self._dialect, request, prompt, self._model, extras)
        if self._dialect == "vllm":
            body["return_token_ids"] = True
        return json.dumps(body).encode()

    def take_event(self, event: Mapping[str, Any], answer: Answer) -> int:
        """Take a server's event into the answer; return how many new tokens it brought."""
        if self._dialect == "sglang":
            return _take_sglang_event(event, answer)
        for choice in event.get("choices") or ():
            answer.token_ids += choice.get("token_ids") or ()
        return _take_usage(event, answer)

    def keep_answer(self, request: WorkloadRequest, answer: Answer) -> None:
        """Take a complete answer into the session's past."""
        token_ids: Sequence[int] = answer.token_ids
        if len(token_ids) != answer.tokens:
            token_ids = self._tokens.draw(answer_key(request.session_id, request.turn), answer.tokens)
        self._tokens.keep_answer(request, token_ids)

    def forget(self, session_id: str) -> None:
        """The session is over."""
        self._tokens.forget(session_id)


class ChatConversations:
    """Conversations by messages, on the chat-completions endpoint; the model needs a chat template.

    A client's tokens become as many common words. An answer's reported reasoning is not sent back, as chat
    clients do not either.

    Args:
        dialect: format of the requests.
        model: the model's name, as the server calls it.
        salt: another salt gives other words.
        told: whether the client names the session of each request.
    """

    path = CHAT_PATH

    def __init__(self, dialect: Dialect, model: str, salt: str, *, told: bool) -> None:
        self._dialect = dialect
        self._model = model
        self._salt = salt
        self._told = told
        self._answers: dict[str, dict[int, tuple[str, int]]] = {}

    def write_body(self, request: WorkloadRequest) -> bytes:
        """Return the encoded body of a turn."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": self.write_messages(request),
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            ("vllm_xargs" if self._dialect == "vllm" else "custom_params"): session_extras(
                request, told=self._told
            ),
        }
        if request.priority:
            body["priority"] = request.priority if self._dialect == "vllm" else -request.priority
        return json.dumps(body).encode()

    def write_messages(self, request: WorkloadRequest) -> list[dict[str, str]]:
        """Return the conversation: the client's words and the answers that were kept, in order."""
        answers = self._answers.get(request.session_id, {})
        messages: list[dict[str, str]] = []
        for key, tokens in request.content:
            if key in answers:
                text, length = answers[key]
                # Of a past that the client cut, the same share of the text is kept.
                messages.append({"role": "assistant", "content": text[: len(text) * tokens // length]})
                continue
            words = " ".join(Random(f"{self._salt}:{key}").choices(_WORDS, k=tokens))
            if messages and messages[-1]["role"] == "user":
                messages[-1]["content"] += f" {words}"
            else:
                messages.append({"role": "user", "content": words})
        return messages

    def take_event(self, event: Mapping[str, Any], answer: Answer) -> int:
        """Take a server's event into the answer; return how many new tokens it brought."""
        for choice in event.get("choices") or ():
            answer.text += (choice.get("delta") or {}).get("content") or ""
        return _take_usage(event, answer)

    def keep_answer(self, request: WorkloadRequest, answer: Answer) -> None:
        """Take a complete answer into the session's past."""
        kept = (answer.text, max(answer.tokens, 1))
        self._answers.setdefault(request.session_id, {})[answer_key(request.session_id, request.turn)] = kept

    def forget(self, session_id: str) -> None:
        """The session is over."""
        self._answers.pop(session_id, None)


def _require_no_error(event: Mapping[str, Any]) -> None:
    if "error" in event:
        raise ValueError(f"server: {str(event['error'])[:200]}")


def _take_usage(event: Mapping[str, Any], answer: Answer) -> int:
    """Take the counts of an OpenAI-style event into the answer."""
    _require_no_error(event)
    usage = event.get("usage")
    if not isinstance(usage, Mapping):
        return 0
    details = usage.get("prompt_tokens_details")
    if isinstance(details, Mapping) and isinstance(details.get("cached_tokens"), int):
        answer.cached_tokens = details["cached_tokens"]
    return _take_counts(usage, answer)


def _take_sglang_event(event: Mapping[str, Any], answer: Answer) -> int:
    """Take an event of SGLang's own endpoint into the answer."""
    _require_no_error(event)
    counts = event.get("meta_info")
    if not isinstance(counts, Mapping):
        return 0
    ids, total = event.get("output_ids") or [], counts.get("completion_tokens")
    # SGLang sends all ids so far or the new ones alone, depending on how it was started.
    answer.token_ids = list(ids) if len(ids) == total else answer.token_ids + list(ids)
    if isinstance(counts.get("cached_tokens"), int):
        answer.cached_tokens = counts["cached_tokens"]
    return _take_counts(counts, answer)


def _take_counts(counts: Mapping[str, Any], answer: Answer) -> int:
    prompt_tokens, total = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if isinstance(prompt_tokens, int):
        answer.prompt_tokens = prompt_tokens
    if not isinstance(total, int) or total <= answer.tokens:
        return 0
    new, answer.tokens = total - answer.tokens, total
    return new
