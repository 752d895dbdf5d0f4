"""Reads pages in Prometheus' text format, with the standard library alone."""

from __future__ import annotations

import http.client
import math
import re
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

TIMEOUT_S = 10.0
"""Longest wait for a page: a busy engine's exporter shares its process with the scheduler."""

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n"}


class PageSample(NamedTuple):
    """One line of a page: a metric's name, its labels and its value."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse_page(page: str) -> Iterator[PageSample]:
    """Yield the samples of a page.

    Raises:
        ValueError: a line is neither a comment nor NAME{LABELS} VALUE; the message shows its beginning.
    """
    for line in page.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(text)
        if match is None:
            raise ValueError(f"expected Prometheus' text format, NAME VALUE, got {text[:60]!r}")
        name, labels, value = match.groups()
        try:
            yield PageSample(name, _parse_labels(labels or ""), _parse_number(value))
        except ValueError:
            raise ValueError(f"expected Prometheus' text format, NAME VALUE, got {text[:60]!r}") from None


def _parse_number(text: str) -> float:
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError("number too large")  # digits without end are no value that an exporter wrote
    return number


def _parse_labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError("labels")
        labels[match[1]] = _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), match[2])
        position = match.end()
    return labels


def get_text(url: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S) -> str:
    """Fetch a page of a local server; with a body, post it as JSON.

    Raises:
        OSError: no answer, or an error.
        ValueError: the address makes no sense.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"expected an address that begins with http:// or https://, got {url[:60]!r}")
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    # The environment's proxy is meant for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            text: str = answer.read().decode(errors="replace")
            return text
    except (http.client.RemoteDisconnected, http.client.IncompleteRead) as error:
        raise ConnectionResetError(f"the connection ended before the answer did ({error})") from error
    except http.client.HTTPException as error:  # a port that is not a number, an answer that is no HTTP
        raise ValueError(str(error) or type(error).__name__) from error
