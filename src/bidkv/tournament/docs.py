"""Regenerates the tables between the markers of the documentation's pages on policies."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bidkv.evaluation.tables import markdown_table
from bidkv.policy import available, resolve
from bidkv.results.files import write_output
from bidkv.tournament.plan import BASELINE, RECOMMENDED
from bidkv.tournament.standings import Standings
from bidkv.tournament.tables import (
    HEADINGS,
    HINDSIGHT_HEADINGS,
    LOSS_HEADINGS,
    describe_size,
    hindsight_rows,
    loss_rows,
    size_rows,
)


def require_markers(file: Path, section: str = "standings") -> None:
    """Check before a long run that a section of a file can be regenerated.

    Raises:
        OSError: the file cannot be read.
        ValueError: a marker is missing; the message names it.
    """
    text = file.read_text(encoding="utf-8")
    for marker in _markers(section):
        if marker not in text:
            raise ValueError(f"{file}: expected a line {marker}")


def regenerate(file: Path, standings: Standings, command: str) -> None:
    """Replace the standings between the markers of `file`; `command` is the command that made them."""
    regenerate_section(file, "standings", standings_text(standings, command))


def regenerate_policies(file: Path) -> None:
    """Replace the table of policies between the markers of `file`."""
    regenerate_section(file, "policies", policy_table())


def regenerate_section(file: Path, section: str, content: str) -> None:
    """Replace the text between the markers of a section of `file`.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: a marker is missing; the message names it.
    """
    require_markers(file, section)
    text = _replace_section(file.read_text(encoding="utf-8"), section, content)
    write_output(file, text)


def policy_table() -> str:
    """Return a table of every registered policy: what it does and its source, from its docstring."""
    rows = []
    for name in available():
        policy = resolve(name)
        text = inspect.cleandoc(type(policy).__doc__ or "")
        first = " ".join(text.split("\n\n")[0].split())
        source = re.search(r"Source:\s(.+?)(?:\.\s|\.?\Z)", text, re.DOTALL)
        seen = "true lengths" if policy.clairvoyant else "what a server sees"
        rows.append([f"`{name}`", _summarize(first), seen, " ".join(source[1].split()) if source else ""])
    return _markdown(["policy", "what it does", "knows", "source"], rows)


def _summarize(first_paragraph: str) -> str:
    text = re.sub(r"^`[^`]+`(?: \(clairvoyant\))?: ", "", first_paragraph)
    sentence = re.split(r"\. (?=[A-Z])|\.$", text)[0]
    return sentence[0].upper() + sentence[1:]


def standings_text(standings: Standings, command: str) -> str:
    """Return the tables of all sizes and the list of lost cells as Markdown."""
    plan = standings.plan
    parts = [
        f"Made by `{command}`:",
        "",
        f"{len(plan.families)} families, loads {', '.join(f'{load:g}' for load in plan.loads)}, "
        f"seeds {', '.join(map(str, plan.seeds))}.",
    ]
    for name in plan.sizes:
        parts += [
            "",
            f"### {describe_size(standings, name)}",
            "",
            _markdown(HEADINGS, size_rows(standings, name)),
        ]
    if hindsight := hindsight_rows(standings):
        parts += ["", "### Against the best watermark of each family and load, known in hindsight", ""]
        parts.append(_markdown(HINDSIGHT_HEADINGS, hindsight))
    recommended = [policy for policy in RECOMMENDED if policy in plan.policies]
    if recommended:
        losses = loss_rows(standings, recommended)
        parts += ["", f"### Where {', '.join(recommended)} lose to {BASELINE}", ""]
        parts.append(_markdown(LOSS_HEADINGS, losses) if losses else "Nowhere.")
        parts += ["", "The cells that others lose are counted above; `--json` names them."]
    return "\n".join(parts)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table(headings, rows))


def _markers(section: str) -> tuple[str, str]:
    return f"<!-- {section}: begin -->", f"<!-- {section}: end -->"


def _replace_section(text: str, section: str, content: str) -> str:
    begin, end = _markers(section)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


if __name__ == "__main__":
    regenerate_policies(Path(sys.argv[1]))
