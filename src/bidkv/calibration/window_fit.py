"""Fit a step-time profile to recorded runs that kept no step log.

    python -m bidkv.calibration.window_fit --runs DIR --start PROFILE --name NAME --out FILE

A directory (there may be several) holds ``plan.json`` and one result per run, as for
:mod:`bidkv.calibration.validation`. The batches of a window of steps come from
:mod:`bidkv.calibration.run_windows`, its time from the record. The coefficients of the starting
profile that are not 0 are fitted to all windows at once; then the batches are made again with them. Only the
runs of one policy are used, by default those of the engine's own order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bidkv.baselines import ENGINE_ORDER
from bidkv.calibration.fitting import cost_features
from bidkv.calibration.replay_plan import read_runs
from bidkv.calibration.run_windows import Window, run_windows
from bidkv.calibration.step_log import Floats
from bidkv.command_line import print_error, run_command
from bidkv.profiles import CostLine, Regime, StepTimeProfile, dump_profile, load_profile
from bidkv.profiles.model import padded_tokens
from bidkv.results.codec import decode
from bidkv.results.files import write_output

PROG = "bidkv.calibration.window_fit"

ROUNDS = 3
"""Fits, each to the batches that the profile of the fit before it makes."""

_LOSS_SCALE = 0.03
"""Relative error above which a window counts as an outlier."""

_PULL = 1e-3
"""Weight of a coefficient's distance from its start, against the relative error of a window."""

_WAYS = ("decode", "graph", "eager")
_DIGITS = 6


@dataclass(frozen=True)
class WindowError:
    """How far a profile is from the windows it was fitted to.

    Attributes:
        windows: number of windows.
        absolute: mean absolute relative error of one window.
    """

    windows: int
    absolute: float


def fit_windows(windows: Sequence[Window], start: StepTimeProfile) -> tuple[StepTimeProfile, WindowError]:
    """Fit the coefficients of `start` that are not 0; of the profile only they are new.

    Args:
        windows: steps of known batches, and the recorded seconds of each window.
        start: where the search begins, and what coefficients are pulled towards.

    Returns:
        The new profile, and its error on these windows.

    Raises:
        ValueError: there is no window.
    """
    if not windows:
        raise ValueError("expected at least one window of known batches, found none")
    recorded_s = np.array([window.duration_s for window in windows])
    of_step = np.repeat(np.arange(len(windows)), [len(window.batches) for window in windows])
    gpu, host = _parts(windows, start)
    weight = _PULL * np.sqrt(len(windows))

    def predicted_s(x: Floats) -> Floats:
        return np.bincount(of_step, np.maximum(gpu @ x, host @ x), len(windows)).astype(np.float64)

    def slopes(x: Floats) -> Floats:
        by_window = np.zeros((len(windows), len(x)))
        np.add.at(by_window, of_step, np.where((gpu @ x >= host @ x)[:, None], gpu, host))
        return np.vstack([by_window / recorded_s[:, None], weight * np.eye(len(x))])

    level = recorded_s.sum() / predicted_s(np.ones(gpu.shape[1])).sum()
    x = least_squares(
        lambda x: np.concatenate([predicted_s(x) / recorded_s - 1.0, weight * (x - level)]),
        np.full(gpu.shape[1], level),
        jac=slopes,
        bounds=(0.0, np.inf),
        loss="soft_l1",
        f_scale=_LOSS_SCALE,
    ).x
    x = x * recorded_s.sum() / predicted_s(x).sum()
    errors = predicted_s(x) / recorded_s - 1.0
    return _scale_profile(start, x), WindowError(len(windows), float(np.abs(errors).mean()))


def _terms(profile: StepTimeProfile) -> list[tuple[str, str, str, float]]:
    """Return way of launching, part, name and value of every coefficient that is not 0."""
    return [
        (way, part, name, getattr(getattr(getattr(profile, way), part), name))
        for way in _WAYS
        for part in ("host", "gpu")
        for name in CostLine.__dataclass_fields__
        if getattr(getattr(getattr(profile, way), part), name)
    ]


def _parts(windows: Sequence[Window], profile: StepTimeProfile) -> tuple[Floats, Floats]:
    """Return the seconds of each step by the terms of `profile`: of the GPU's lines, and of the host's."""
    prefill, attention, decodes, context, prefills = np.concatenate([w.batches for w in windows]).T
    limit = np.repeat([w.graph_max_tokens for w in windows], [len(w.batches) for w in windows])
    tokens = prefill + decodes
    in_graph = tokens <= limit
    padded = np.array([padded_tokens(int(count)) for count in tokens])
    launched = np.where(in_graph, np.minimum(padded, limit), tokens)
    ways: dict[str, NDArray[np.bool_]] = {
        "decode": (prefill == 0) & (tokens > 0),
        "graph": (prefill > 0) & in_graph,
        "eager": (prefill > 0) & ~in_graph,
    }
    features = cost_features(launched, tokens, decodes, context, attention, prefills)
    terms = _terms(profile)
    both = {part: np.zeros((len(tokens), len(terms))) for part in ("gpu", "host")}
    for column, (way, part, name, value) in enumerate(terms):
        both[part][:, column] = np.where(ways[way], value * features[name], 0.0)
    return both["gpu"], both["host"]


def _scale_profile(profile: StepTimeProfile, factors: Floats) -> StepTimeProfile:
    lines: dict[tuple[str, str], dict[str, float]] = {(w, p): {} for w in _WAYS for p in ("host", "gpu")}
    for (way, part, name, value), factor in zip(_terms(profile), factors, strict=True):
        lines[way, part][name] = float(f"{value * factor:.{_DIGITS}g}")
    decode_, graph, eager = (
        Regime(CostLine(**lines[way, "host"]), CostLine(**lines[way, "gpu"])) for way in _WAYS
    )
    return replace(profile, decode=decode_, graph=graph, eager=eager)


def command(
    runs: Annotated[list[Path], typer.Option(metavar="DIR", help="plan.json and its results; repeatable")],
    start: Annotated[str, typer.Option(metavar="NAME|FILE", help="profile whose terms are fitted")],
    name: Annotated[str, typer.Option(help="name of the new profile")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="write the new profile (JSON)")],
    policy: Annotated[str, typer.Option(metavar="NAME", help="use the runs of this policy")] = ENGINE_ORDER,
    notes: Annotated[str, typer.Option(help="where the runs come from; goes into the profile")] = "",
) -> int:
    """Fit a step-time profile to recorded runs that kept no step log."""
    try:
        profile = replace(load_profile(start), name=name, notes=notes)
        recorded = [
            (spec, decode((path := folder / f"{spec['name']}.json").read_text(encoding="utf-8"), str(path)))
            for folder in runs
            for spec in read_runs(folder / "plan.json")
            if spec["policy"] == policy
        ]
        for number in range(1, ROUNDS + 1):
            made = [run_windows(spec, real, profile) for spec, real in recorded]
            windows = [window for found, _ in made for window in found]
            profile, error = fit_windows(windows, profile)
            known = f"batches known in {error.windows} of {sum(count for _, count in made)} windows"
            print(f"round {number}: {len(recorded)} runs, {known}, mean |.| {error.absolute:.2%}", flush=True)
        evidence = {"runs": [spec["name"] for spec, _ in recorded], "windows": error.windows}
        evidence |= {"absolute": float(f"{error.absolute:.4g}")}
        write_output(out, dump_profile(profile, evidence))
    except (OSError, ValueError) as failure:
        return print_error(failure)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command(command, PROG, argv)


if __name__ == "__main__":
    sys.exit(main())
