"""Print what a trace's token counts look like: quantiles as `Quantiles` takes them, and the lognormal fit.

Usage: python scripts/fit_lengths.py TRACE, a file or the name of a trace that ships. For prompts and outputs
it prints the 0 %, 5 %, ..., 100 % quantiles, the maximum likelihood lognormal (median, sigma), and the
Kolmogorov-Smirnov distance of both to the data; then the correlation of the logarithms.
"""

import math
import statistics
import sys
from bisect import bisect_right
from collections.abc import Callable

from bidkv.workloads.traces import read_trace

STEPS = 20


def distance(ordered: list[int], cdf: Callable[[float], float]) -> float:
    """Kolmogorov-Smirnov distance, at half counts, where a rounded law and the data both have no mass."""
    points = {value + 0.5 for value in ordered}
    return max(abs(cdf(x) - bisect_right(ordered, x) / len(ordered)) for x in points)


def table_cdf(table: list[int]) -> Callable[[float], float]:
    def cdf(x: float) -> float:
        above = bisect_right(table, x)
        if above in (0, len(table)):
            return float(above > 0)
        low, high = table[above - 1], table[above]
        return (above - 1 + (x - low) / (high - low)) / (len(table) - 1)

    return cdf


def show(name: str, values: list[int]) -> None:
    ordered = sorted(values)
    table = [ordered[round(i * (len(ordered) - 1) / STEPS)] for i in range(STEPS + 1)]
    logs = [math.log(value) for value in ordered]
    normal = statistics.NormalDist(statistics.fmean(logs), statistics.pstdev(logs))
    print(f"{name}: mean {statistics.fmean(values):.0f}")
    print(f"  quantiles {tuple(table)}, distance {distance(ordered, table_cdf(table)):.3f}")
    fit = distance(ordered, lambda x: normal.cdf(math.log(x)))
    print(f"  lognormal median {math.exp(normal.mean):.0f} sigma {normal.stdev:.2f}, distance {fit:.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    name = sys.argv[1]
    try:
        requests = list(read_trace(name))
    except ValueError:
        requests = list(read_trace(name, rate_rps=1.0))
    prompts, outputs = [r.prompt_tokens for r in requests], [r.output_tokens for r in requests]
    show("prompt", prompts)
    show("output", outputs)
    correlation = statistics.correlation(*[[math.log(v) for v in values] for values in (prompts, outputs)])
    print(f"correlation of logarithms {correlation:.2f}, {len(requests)} requests")
