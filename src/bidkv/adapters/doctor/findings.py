"""One thing that was looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ANSWER = "bidkv-probe: "
"""What a probe's answer begins with, among whatever an engine prints."""


class Status(StrEnum):
    """How it is: in order, worth knowing, or in the way."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report.

    Attributes:
        subject: what was looked at.
        status: how it is.
        text: what was found and, when it is in the way, what to do.
    """

    subject: str
    status: Status
    text: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields by name."""
        return {"subject": self.subject, "status": self.status.value, "text": self.text}
