"""The published validation of the plain formula, regenerated: `python -m bidkv.stability.published`.

Nie, Si and Zhou (arXiv 2605.04595), A100, Llama-3-8B, chunks of 512 tokens, M = 131,000 tokens. The
paper states measured and predicted rates; the batch time b its predictions imply follows from E[g].
"""

from __future__ import annotations

from typing import NamedTuple

from bidkv.stability.lengths import UniformLaw

MEMORY_TOKENS = 131_000
CHUNK_TOKENS = 512


class PublishedRow(NamedTuple):
    """One published comparison; rates in requests per second, `law` None where it is not a closed law."""

    name: str
    law: UniformLaw | None
    measured_rps: float
    predicted_rps: float

    @property
    def error_pct(self) -> float:
        """Difference of prediction and measurement in percent of the measurement."""
        return 100.0 * abs(self.predicted_rps - self.measured_rps) / self.measured_rps

    @property
    def implied_batch_s(self) -> float | None:
        """b = M / (mu * E[g]) in seconds."""
        if self.law is None:
            return None
        return MEMORY_TOKENS / (self.predicted_rps * self.law.mean_memory_demand(CHUNK_TOKENS))


ROWS = (
    PublishedRow("1:1 U(10,1600) x U(10,1600)", UniformLaw((10, 1600), (10, 1600)), 3.387, 3.263),
    PublishedRow("2:1 U(10,2133) x U(10,1066)", UniformLaw((10, 2133), (10, 1066)), 3.650, 3.956),
    PublishedRow("1:2 U(10,1066) x U(10,2133)", UniformLaw((10, 1066), (10, 2133)), 2.969, 2.902),
    PublishedRow("LongBench v2", None, 0.610, 0.561),
    PublishedRow("8 replicas", None, 26.71, 25.81),
)


def table() -> str:
    """Return the published table as Markdown, with E[g] and the batch time each prediction implies."""
    lines = [
        "| lengths | measured req/s | predicted req/s | error | E[g] token-batches | implied b |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        demand = "" if row.law is None else f"{row.law.mean_memory_demand(CHUNK_TOKENS):,.0f}"
        batch = "" if row.implied_batch_s is None else f"{1000.0 * row.implied_batch_s:.1f} ms"
        rates = f"{row.measured_rps} | {row.predicted_rps} | {row.error_pct:.1f} %"
        lines.append(f"| {row.name} | {rates} | {demand} | {batch} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
