"""Frozen workloads: a Mooncake JSON lines file beside a manifest with its checksum.

An experiment that was run on a frozen workload can be run again on exactly the same requests, and says so
when they changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results.files import write_output
from bidkv.workloads.traces import TraceError, TraceOptions, read_trace, write_mooncake
from bidkv.workloads.traces.errors import quote
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

MANIFEST_VERSION = 1
_MOST_MANIFEST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a frozen workload holds.

    Attributes:
        sha256: checksum of the file, hexadecimal.
        requests: how many.
        prompt_tokens: of all of them.
        output_tokens: of all of them.
        first_arrival_s: seconds.
        last_arrival_s: seconds.
        source: where it came from, as its maker stated: name, seed, rate, parameters.
        version: of this layout.
    """

    sha256: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    first_arrival_s: float
    last_arrival_s: float
    source: Mapping[str, Any] = field(default_factory=dict)
    version: int = MANIFEST_VERSION


def manifest_path(path: str | Path) -> Path:
    """Return where the manifest of the workload at `path` is: beside it, with `.manifest.json` appended."""
    return Path(f"{path}.manifest.json")


def freeze(
    requests: Iterable[WorkloadRequest],
    path: str | Path,
    *,
    source: Mapping[str, Any] | None = None,
    tokens_per_hash_id: int = HASH_CHUNK_TOKENS,
) -> Manifest:
    """Write a workload and its manifest, streaming, each all or nothing.

    Args:
        requests: at least one, in order of arrival.
        path: the workload's file; its folder must exist.
        source: anything JSON that says where the workload came from.
        tokens_per_hash_id: prompt tokens that a hash id of the requests stands for; kept in the source where
            it is not the usual one.

    Raises:
        TraceError: a request no reader would take.
        ValueError: no request, or a source JSON cannot hold.
        OSError: a file cannot be written.
    """
    tally = _Tally()
    try:
        stated = json.loads(json.dumps(dict(source or {}), allow_nan=False))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"source must be what JSON can hold: {error}") from error
    if tokens_per_hash_id != HASH_CHUNK_TOKENS:
        stated["tokens_per_hash_id"] = tokens_per_hash_id
    write_mooncake(tally.count(requests), path, tokens_per_hash_id)
    with Path(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(sha256, **asdict(tally), source=stated)
    # After the workload: a manifest never vouches for a file that was not there.
    write_output(manifest_path(path), json.dumps(asdict(manifest), indent=2) + "\n")
    return manifest


def load_frozen(path: str | Path) -> tuple[Manifest, Iterator[WorkloadRequest]]:
    """Check a frozen workload against its manifest and stream it.

    Raises:
        TraceError: no manifest or a broken one, or the file is not the one that was frozen.
    """
    manifest = _read_manifest(manifest_path(path))
    try:
        with Path(path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if sha256 != manifest.sha256:
        raise TraceError(
            f"{path}: expected the file that was frozen, SHA-256 {manifest.sha256[:64]}, found {sha256}: "
            "it was changed since; freeze it again"
        )
    chunk = manifest.source.get("tokens_per_hash_id", HASH_CHUNK_TOKENS)
    try:
        options = TraceOptions(time_unit="ms", tokens_per_hash_id=chunk)
    except (ValueError, TypeError) as error:
        raise TraceError(f"{manifest_path(path)}, field 'source': {error}") from error
    return manifest, read_trace(path, trace_format="mooncake", options=options)


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    first_arrival_s: float = 0.0
    last_arrival_s: float = 0.0

    def count(self, requests: Iterable[WorkloadRequest]) -> Iterator[WorkloadRequest]:
        for request in requests:
            if not self.requests:
                self.first_arrival_s = request.arrival_s
            self.last_arrival_s = request.arrival_s
            self.requests += 1
            self.prompt_tokens += request.prompt_tokens
            self.output_tokens += request.output_tokens
            yield request


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "sha256": ("text", (str,)),
    "requests": ("a whole number", (int,)),
    "prompt_tokens": ("a whole number", (int,)),
    "output_tokens": ("a whole number", (int,)),
    "first_arrival_s": ("a number", (int, float)),
    "last_arrival_s": ("a number", (int, float)),
    "source": ("an object", (dict,)),
    "version": ("a whole number", (int,)),
}


def _read_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_MANIFEST_BYTES))
    except OSError as error:
        raise TraceError(
            f"{path}: no manifest to read ({error}); freeze() writes one beside the workload"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: expected a manifest in JSON ({str(error)[:120]})") from error
    if not isinstance(content, dict) or set(content) != set(_KINDS):
        raise TraceError(f"{path}: expected a JSON object with exactly the fields {', '.join(_KINDS)}")
    for name, (expected, kinds) in _KINDS.items():
        if type(content[name]) not in kinds:
            raise TraceError(f"{path}, field {name!r}: expected {expected}, found {quote(content[name])}")
    if content["version"] != MANIFEST_VERSION:
        raise TraceError(
            f"{path}, field 'version': expected {MANIFEST_VERSION}, found {quote(content['version'])}"
        )
    return Manifest(**content)
