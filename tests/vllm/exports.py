"""What an engine's adapter shows outside: its metrics and its decision log."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families


def read_metrics(port: int) -> dict[str, float]:
    """The adapter's metrics at a port of this machine, by the name of a sample."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def count_decisions(log: Path) -> int:
    """Decisions in a log."""
    return sum('"decision"' in line for line in log.read_text().splitlines())
