"""Writes a week of requests in the format of Azure's 2024 traces, for `bidkv simulate --stream`.

    python -m benchmarks.azure_week week.csv                  # 44,000,000 rows, 1.8 GB
    python -m benchmarks.azure_week hour.csv --rows 260000

72.75 requests a second on average, 40 % more and less over each day; lognormal lengths with the medians of
Azure's conversations (1,000 and 200 tokens, at most 8,000 and 1,000). The same arguments give the same file.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Annotated

import typer

WEEK_ROWS = 44_000_000
MEAN_RPS = WEEK_ROWS / (7 * 86_400)
SWING = 0.4
START = datetime(2024, 5, 10, tzinfo=UTC)
COLUMNS = "TIMESTAMP,ContextTokens,GeneratedTokens"


def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the rows go.")],
    rows: Annotated[int, typer.Option(metavar="N", help="Rows from Friday midnight on.")] = WEEK_ROWS,
) -> None:
    """Write the rows."""
    random, now_s, day = Random(2024), 0.0, 2.0 * math.pi / 86_400
    second, stamp = -1, ""
    with file.open("w", encoding="ascii") as out:
        out.write(f"{COLUMNS}\n")
        for _ in range(rows):
            if int(now_s) != second:
                second = int(now_s)
                stamp = (START + timedelta(seconds=second)).strftime("%Y-%m-%d %H:%M:%S")
                rate_rps = MEAN_RPS * (1.0 - SWING * math.cos(day * now_s))
            prompt = min(int(1 + random.lognormvariate(math.log(1000), 0.7)), 8000)
            output = min(int(1 + random.lognormvariate(math.log(200), 0.7)), 1000)
            out.write(f"{stamp}.{int(now_s % 1.0 * 1e6):06}+00:00,{prompt},{output}\n")
            now_s += random.expovariate(rate_rps)


if __name__ == "__main__":
    typer.run(main)
