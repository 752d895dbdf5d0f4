"""What the load generator saw of each request, as JSON lines, and the records made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord, nearest_rank
from bidkv.results.files import atomic_file

SAMPLES_VERSION = 1


@dataclass(slots=True)
class Sample:
    """One request as its client saw it; times are seconds after the run's start (`LoadReport.start_s`).

    Attributes:
        request_id: as in the workload.
        intended_s: when it was due.
        sent_s: when its headers left, connecting included; None when they never did.
        chunks: time and number of new tokens of every chunk with tokens (a chunk may hold several).
        done_s: when the stream ended with `[DONE]` and the tokens asked for; None when it did not.
        error: why it did not; empty when it did.
    """

    request_id: str
    intended_s: float
    sent_s: float | None = None
    chunks: list[tuple[float, int]] = field(default_factory=list)
    done_s: float | None = None
    error: str = ""

    @property
    def tokens(self) -> int:
        """Tokens received."""
        return sum(count for _, count in self.chunks)


DEFAULT_SEND_LAG_LIMIT_MS = 250.0
"""A run whose p99 of send lag is above this has no result.

Latencies count from the time at which a request was due, so a lag is part of them; a quarter of a second
is little beside the seconds of a request, and a machine that runs client and engine on the same few cores
keeps it. The verdict states the lag that was seen.
"""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How well the load was applied.

    Attributes:
        start_s: the run's start on the machine's monotonic clock, which other processes share.
        requests: how many were due.
        completed: how many completed.
        send_lag_p50_ms: median of sent minus intended; None when nothing was sent.
        send_lag_p99_ms: 99th percentile.
        send_lag_max_ms: the worst.
    """

    start_s: float
    requests: int
    completed: int
    send_lag_p50_ms: float | None
    send_lag_p99_ms: float | None
    send_lag_max_ms: float | None

    @classmethod
    def summarize(cls, start_s: float, samples: Sequence[Sample]) -> LoadReport:
        """Summarize a run's samples."""
        completed = sum(1 for s in samples if s.done_s is not None)
        return cls.summarize_lags(start_s, [(s.intended_s, s.sent_s) for s in samples], completed)

    @classmethod
    def summarize_lags(
        cls, start_s: float, sent: Sequence[tuple[float, float | None]], completed: int
    ) -> LoadReport:
        """Summarize when requests were due and when they were sent; None for those that never were."""
        lags = sorted(1e3 * (sent_s - intended_s) for intended_s, sent_s in sent if sent_s is not None)
        p50, p99, most = (nearest_rank(lags, p) if lags else None for p in (50, 99, 100))
        return cls(start_s, len(sent), completed, p50, p99, most)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def write_samples(path: Path, report: LoadReport, samples: Iterable[Sample]) -> None:
    """Write the report and one line per request; the file appears whole or not at all."""
    with atomic_file(path) as file:
        head = {"version": SAMPLES_VERSION, **report.as_dict()}
        file.write((json.dumps(head) + "\n").encode())
        for sample in samples:
            file.write((json.dumps(asdict(sample), separators=(",", ":")) + "\n").encode())


def read_samples(path: Path) -> tuple[LoadReport, list[Sample]]:
    """Read what :func:`write_samples` wrote.

    Raises:
        ValueError: another version, or not such a file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            head = json.loads(file.readline())
            if head.pop("version") != SAMPLES_VERSION:
                raise ValueError("another version")
            report = LoadReport(**head)
            samples = [Sample(**json.loads(line)) for line in file]
            for sample in samples:
                sample.chunks = [(float(time_s), _count(count)) for time_s, count in sample.chunks]
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected samples of version {SAMPLES_VERSION} ({str(error)[:100]})"
            ) from error
    return report, samples


def _count(tokens: object) -> int:
    if type(tokens) is not int or tokens < 1:
        raise ValueError(f"a chunk of {tokens!r:.60} tokens")
    return tokens


def make_records(requests: Sequence[WorkloadRequest], samples: Sequence[Sample]) -> list[RequestRecord]:
    """Return the records behind every figure; latencies count from the intended time.

    A request without a sample was never sent and counts as failed.
    """
    by_id = {sample.request_id: sample for sample in samples}
    return [_record(request, by_id.get(request.request_id)) for request in requests]


def _record(request: WorkloadRequest, sample: Sample | None) -> RequestRecord:
    if sample is None:
        sample = Sample(request.request_id, request.arrival_s, error="never sent")
    completed = sample.done_s is not None and bool(sample.chunks)
    return RequestRecord(
        request_id=request.request_id,
        arrival_s=sample.intended_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=sample.tokens,
        first_token_s=sample.chunks[0][0] if sample.chunks else None,
        # The last token's time: what follows it ([DONE], the end of the stream) is not the answer.
        finish_s=sample.chunks[-1][0] if completed else None,
        outcome=Outcome.COMPLETED if completed else Outcome.FAILED,
        detail=sample.error,
    )
