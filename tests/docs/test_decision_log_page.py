"""docs/reference/decision-log.md names every field of every line, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from bidkv.observability.decision_log import CANDIDATE_FIELDS
from bidkv.observability.log_lines import KINDS, Line

PAGE = (Path(__file__).parents[2] / "docs/reference/decision-log.md").read_text(encoding="utf-8")


def documented(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_every_field_is_documented() -> None:
    common, *sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)
    everywhere = {field.name for field in fields(Line)}
    assert set(documented(common)) == everywhere | {"kind"}
    told = {section.split("\n", 1)[0]: set(documented(section)) for section in sections}
    assert told == {name: {f.name for f in fields(kind)} - everywhere for name, kind in KINDS.items()}


def test_a_candidates_fields_are_documented() -> None:
    sentence = re.search(r"A candidate's fields: (.*?)\. A term", PAGE, re.DOTALL)
    assert sentence is not None
    assert tuple(re.findall(r"`(\w+)`", sentence[1])) == CANDIDATE_FIELDS
