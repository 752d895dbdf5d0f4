"""Fit step-time models without one recorded run of traffic at a time, and predict that run.

Usage: python scripts/left_out_traffic.py [MODEL ...]

Reads tests/data/h100/traffic/steps.csv, whose cells from 1000 on are runs of traffic, a hundred numbers each.
Prints predicted over recorded time of each run that was left out, less 1; a minute a model.
"""

import csv
import statistics
import sys
from pathlib import Path

import numpy as np

from bidkv.calibration import Graphs, read_step_log
from bidkv.calibration.fitting import find_candidate, fit, predict

STEPS = Path(__file__).parents[1] / "tests" / "data" / "h100" / "traffic" / "steps.csv"
MODELS = (
    "max, padded, attention, history",
    "max, padded, attention, history, host per decode",
    "max, padded, attention, history, host per decode, graphs apart",
    "max, padded, attention, history, host per decode, graphs apart, median cell",
)
RUNS = {10: "mixed, 8192 blocks", 11: "mixed, chunk 2048", 12: "mixed, chunk 512", 13: "uniform"}


def main(models: tuple[str, ...]) -> None:
    log = read_step_log(STEPS)
    with STEPS.open() as file:
        run = np.array([int(row["cell"]) // 100 for row in csv.DictReader(file)])
    print(f"| model | {' | '.join(RUNS.values())} | mean, absolute |")
    print(f"|{'---|' * (len(RUNS) + 2)}")
    for model in models:
        errors = []
        for number in RUNS:
            left_out = log.where(run == number)
            profile = fit(log.where(run != number), find_candidate(model), model, Graphs())
            errors.append(predict(profile, left_out).sum() / left_out.step_s.sum() - 1.0)
        shown = " | ".join(f"{100 * error:+.1f} %" for error in errors)
        print(f"| {model} | {shown} | {100 * statistics.fmean(map(abs, errors)):.1f} % |", flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or MODELS)
