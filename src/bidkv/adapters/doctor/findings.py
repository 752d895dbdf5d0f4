"""One subject of the examination and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ANSWER = "bidkv-probe: "
"""Marks a probe's answer among the lines that an engine prints."""


class Status(StrEnum):
    """In order, worth knowing, or in the way of a start."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report.

    Attributes:
        subject: what was examined.
        status: the outcome.
        text: what was found and, when it is in the way, what to do about it.
    """

    subject: str
    status: Status
    text: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields by name."""
        return {"subject": self.subject, "status": self.status.value, "text": self.text}
