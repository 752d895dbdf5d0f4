"""Conversations as text: ShareGPT, and lists of chat messages as OpenAI's API takes them.

`{"conversations": [{"from": "human", "value": ...}, ...]}` or `{"messages": [{"role": "user", "content":
...}, ...]}`, as a JSON list or one a line; a body inside `"body"` (OpenAI's batch files) is taken out. Texts
have no token counts: a tokenizer counts them, or their length divided by a stated number of characters per
token, which is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.formats.base import Format
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source

_ANSWERS = frozenset(("gpt", "chatgpt", "bard", "bing", "assistant", "model"))
_LISTS = ("conversations", "messages", "conversation")
_UNANSWERED = "conversations without an answer"


def _messages(row: dict[str, Any]) -> Any:
    body = row.get("body")
    if type(body) is dict:
        row = body
    return next((row[name] for name in _LISTS if type(row.get(name)) is list), None)


def _matches(source: Source, options: TraceOptions) -> bool:
    return bool(source.sample) and _messages(source.sample[0][1]) is not None


def _read(source: Source, options: TraceOptions, report: TraceReport) -> list[Session]:
    file = str(source.path)
    count_tokens = _make_counter(file, options, report)
    sessions = []
    for number, row in source.objects():
        messages = _messages(row)
        if messages is None:
            fail(file, number, "", f"one of the fields {', '.join(_LISTS)}")
        turns = _turns(file, number, messages, count_tokens)
        if not turns:
            report.leave_out(_UNANSWERED)
            continue
        name = row.get("id", row.get("custom_id"))
        known = type(name) is str and 0 < len(name) <= 256 and name.isprintable()
        sessions.append(Session(f"{name}.{number}" if known else f"s{number}", tuple(turns)))
        report.requests += len(turns)
        report.sessions += 1
    if not sessions:
        fail(file, 0, "", "at least one conversation with an answer")
    report.note("gaps between turns are not recorded: a turn follows the answer at once")
    return sessions


def _turns(file: str, number: int, messages: list[Any], count_tokens: Callable[[str], int]) -> list[Turn]:
    turns: list[Turn] = []
    new = 0
    for message in messages:
        if type(message) is not dict:
            fail(file, number, "", "messages that are objects", message)
        tokens = count_tokens(_text(message.get("value", message.get("content"))))
        role = message.get("from", message.get("role"))
        if type(role) is not str or role not in _ANSWERS:
            new += tokens
        elif new and tokens:
            turns.append(Turn(new, tokens, gap_kind="human" if turns else ""))
            new = 0
        else:
            # An answer to nothing, or an empty one, is context of the next turn.
            new += tokens
    return turns


def _text(content: Any) -> str:
    if type(content) is str:
        return content
    if type(content) is list:  # parts: text, images, ...
        return "".join(_text(part.get("text")) for part in content if type(part) is dict)
    return ""


def _make_counter(file: str, options: TraceOptions, report: TraceReport) -> Callable[[str], int]:
    if options.tokenizer is not None:
        encode = _load_tokenizer(options.tokenizer).encode
        report.note(f"tokens are counted by {options.tokenizer}")
        return lambda text: len(encode(text).ids)
    if options.characters_per_token is not None:
        size = options.characters_per_token
        report.note(f"tokens are estimated: one for each {size:g} characters")
        return lambda text: -(-len(text) // size).__trunc__() if text else 0
    raise TraceError(
        f"{file}: texts, and no token counts: state --tokenizer FILE to count them, or "
        "--characters-per-token 4 for an estimate"
    )


def _load_tokenizer(name: str) -> Any:
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizers = import_module("tokenizers")
    except ImportError as error:
        raise TraceError(
            f"{name}: counting tokens needs the package tokenizers: install the extra bidkv[traces]"
        ) from error
    if not path.is_file():
        raise TraceError(f"{name}: expected a tokenizer.json file, or a folder that holds one")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception for a broken file
        raise TraceError(f"{name}: expected a tokenizer.json file ({str(error)[:120]})") from error


CHATS = Format(
    "chats",
    "conversations as text (ShareGPT, lists of chat messages); needs --tokenizer or --characters-per-token",
    _matches,
    sessions=_read,
)
