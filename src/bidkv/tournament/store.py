"""Scores on disk, so that a tournament can be resumed and runs only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bidkv.policy import PolicySpecError
from bidkv.results.files import write_output
from bidkv.tournament.fingerprints import policy_fingerprint


class _Score(Protocol):
    def as_dict(self) -> dict[str, Any]:
        """Return every figure under its name."""


Score = TypeVar("Score", bound=_Score)


class ScoreStore(Generic[Score]):
    """The scores of one group of cells, replaced on disk as a whole; in memory only without a file.

    A file made by another version of the engine or with other settings counts as empty, and so does the score
    of a policy that has changed since.

    Args:
        file: where they are kept, or None.
        made_by: what the scores depend on beside the policies, as JSON types.
        make_score: a score from its figures.
    """

    def __init__(self, file: Path | None, made_by: dict[str, Any], make_score: Callable[..., Score]) -> None:
        self.reference: float | None = None
        """What loads are shares of (saturation, or the knee), once it is known."""
        self._knees: dict[str, float] = {}
        self._file = file
        self._made_by = made_by
        self._scores: dict[str, dict[str, Score]] = {}
        if file is not None and file.exists():
            self._load(file, make_score)

    def _load(self, file: Path, make_score: Callable[..., Score]) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("made_by") != self._made_by or "scores" not in content:
            return
        self.reference = content["reference"]
        self._knees = content.get("knees", {})
        self._scores = {
            key: {
                spec: make_score(**stored["score"])
                for spec, stored in by_policy.items()
                if stored["policy"] is not None and stored["policy"] == _fingerprint(spec)
            }
            for key, by_policy in content["scores"].items()
        }

    def scores(self, key: str) -> dict[str, Score]:
        """Return the scores of a cell by policy. What is added to them is saved by :meth:`save`."""
        return self._scores.setdefault(key, {})

    def knee(self, spec: str) -> float | None:
        """Return the knee of a policy, where it is known of the policy as it is now."""
        return self._knees.get(f"{spec} {_fingerprint(spec)}")

    def keep_knee(self, spec: str, rate: float) -> None:
        """Note the knee of a policy; :meth:`save` writes it."""
        self._knees[f"{spec} {_fingerprint(spec)}"] = rate

    def save(self) -> None:
        """Replace the file atomically: a reader sees the old content or the new, never a part."""
        if self._file is None:
            return
        content = {
            "made_by": self._made_by,
            "reference": self.reference,
            "knees": self._knees,
            "scores": {
                key: {
                    spec: {"policy": _fingerprint(spec), "score": score.as_dict()}
                    for spec, score in by_policy.items()
                }
                for key, by_policy in self._scores.items()
            },
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_output(self._file, json.dumps(content, indent=1) + "\n")


def _fingerprint(spec: str) -> str | None:
    """Return a policy's checksum; None for one that no longer exists or was defined at a prompt."""
    try:
        return policy_fingerprint(spec)
    except (PolicySpecError, TypeError, OSError):
        return None
