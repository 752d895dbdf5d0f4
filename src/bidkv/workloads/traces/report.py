"""What a reader understood of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bidkv.protocol.texts import plain_number


@dataclass(slots=True)
class TraceReport:
    """What a reader took a trace for; counts are complete once it was read to its end.

    Attributes:
        file: name of the trace.
        format: name of the format.
        time_unit: of its timestamps ("s", "ms", "date", ...); "" when it has none.
        tokens_per_hash_id: prompt tokens that one hash id stands for; 0 when it has none.
        requests: requests, or turns of sessions, that were read.
        sessions: sessions that were read; 0 for single requests.
        first_s: arrival of the first request, in the file's own time.
        last_s: arrival of the last one.
        left_out: rows that are not a request, by reason.
        notes: how the file was read where that is not obvious.
        warnings: what is implausible, each with the option that settles it.
    """

    file: str
    format: str = ""
    time_unit: str = ""
    tokens_per_hash_id: int = 0
    requests: int = 0
    sessions: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, reason: str) -> None:
        """Count a row that is not a request."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def note(self, text: str) -> None:
        """Say how the file was read, once."""
        if text not in self.notes:
            self.notes.append(text)

    def warn(self, text: str) -> None:
        """Say what is implausible, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.last_s - self.first_s

    @property
    def rate_rps(self) -> float | None:
        """Mean arrivals a second; None where there is none to speak of."""
        return (self.requests - 1) / self.span_s if self.requests > 1 and self.span_s > 0.0 else None

    def lines(self) -> list[str]:
        """The report as text, one statement a line."""
        what = f"{self.requests:,} requests"
        if self.sessions:
            what = f"{self.sessions:,} sessions of {self.requests:,} turns"
        parts = [f"{self.file}: {self.format}, {what}"]
        if self.time_unit:
            unit = "dates" if self.time_unit == "date" else f"timestamps in {self.time_unit}"
            parts.append(f"{unit} over {plain_number(self.span_s, 6)} s")
        if self.rate_rps is not None and not self.sessions:
            parts.append(f"{plain_number(self.rate_rps, 3)} a second")
        if self.tokens_per_hash_id:
            parts.append(f"{self.tokens_per_hash_id} tokens a hash id")
        lines = [", ".join(parts)]
        lines += [f"left out {count:,} rows: {reason}" for reason, count in self.left_out.items()]
        lines += self.notes
        lines += [f"warning: {text}" for text in self.warnings]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "format": self.format,
            "time_unit": self.time_unit,
            "tokens_per_hash_id": self.tokens_per_hash_id or None,
            "requests": self.requests,
            "sessions": self.sessions,
            "span_s": self.span_s,
            "rate_rps": self.rate_rps,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }
