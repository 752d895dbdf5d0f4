"""Fit step-time profiles: candidate models, and the robust fit of the larger of two cost lines.

A candidate says which coefficients of a :class:`~bidkv.profiles.CostLine` may differ from 0. Its lines are
fitted by least squares of the relative error under a soft-L1 loss, because a recording holds a few steps that
took several times as long (first steps, garbage collection). ``max`` makes that problem non-convex, so it is
approached through p-norms of growing p, from a non-negative linear fit; no coefficient may fall below 0, time
being a cost.

A robust fit sits near the median, below the mean of right-skewed step times, yet a run's length is the sum of
its steps. So the lines of a regime are scaled last, by one factor that makes the mean right: of all steps, or
of the median cell, which a slow spell of the machine over some of the cells leaves where it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, lsq_linear

from bidkv.calibration.step_log import Floats, Ints, StepLog
from bidkv.profiles import CostLine, Regime, StepTimeProfile
from bidkv.profiles.model import padded_tokens

Names = tuple[str, ...]
KnownMinima = dict[bytes, Floats]
"""Costs that were found for a part of a log, by the checksum of what they were fitted to."""

ASSUMED_EMPTY_STEP_S = 0.0005  # used when a log holds no step that scheduled nothing
_LOSS_SCALE = 0.05  # relative error from which on a step counts as an outlier
_OUTLIER = 3.0  # a step this many times as long as the fit says is left out of the mean
_NORMS = (4.0, 16.0, 64.0, None)  # None: the maximum itself
_DIGITS = 6
_STEPS_PER_COEFFICIENT = 10
"""Steps per coefficient from which on one start of the fit is enough."""

_HOST_FACTORS = (1.0, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0)
"""Factors on the host's first estimate: the starts of a fit to few steps."""


@dataclass(frozen=True)
class Candidate:
    """One model of step time: the coefficients each cost line may use.

    Attributes:
        name: what reports call it.
        decode_host: of the host's line in decode steps; empty when the host never bounds a step.
        decode_gpu: of the GPU's line in decode steps.
        eager_host: of the host's line in steps with prefill launched kernel by kernel; when not empty, those
            in a captured graph have a host line too, a constant.
        prefill_gpu: of the GPU's line in steps with prefill.
        graphs_apart: whether steps with prefill in a captured graph have a GPU line of their own. The kernels
            are the same, but a small batch waits for the weights and a large one for its own products: one
            line through both is too low for the batches in between.
        median_cell: whether the level is that of the median cell, not of all steps together.
    """

    name: str
    decode_host: Names
    decode_gpu: Names
    eager_host: Names
    prefill_gpu: Names
    graphs_apart: bool = False
    median_cell: bool = False


_BASE = ("base_s",)
_DECODE = ("base_s", "per_token_s", "per_context_token_s")
_PREFILL = ("base_s", "per_token_s", "per_decode_s", "per_context_token_s")
_UNPADDED = ("base_s", "per_decode_s", "per_context_token_s")
_ATTENTION = ("per_attention_s",)
_HISTORY = ("history_s",)

CANDIDATES = (
    Candidate("sum", (), _UNPADDED, (), _PREFILL),
    Candidate("max", _BASE, _UNPADDED, _BASE, _PREFILL),
    Candidate("max, padded", _BASE, _DECODE, _BASE, _PREFILL),
    Candidate("max, padded, attention", _BASE, _DECODE, _BASE, _PREFILL + _ATTENTION),
    Candidate("max, padded, history", _BASE, _DECODE, _BASE, _PREFILL + _HISTORY),
    Candidate("max, padded, attention, history", _BASE, _DECODE, _BASE, _PREFILL + _ATTENTION + _HISTORY),
    Candidate(
        "max, padded, attention, history, host per token",
        _BASE,
        _DECODE,
        ("base_s", "per_token_s"),
        _PREFILL + _ATTENTION + _HISTORY,
    ),
    Candidate(
        "max, padded, attention, history, host per decode",
        _BASE,
        _DECODE,
        ("base_s", "per_decode_s"),
        _PREFILL + _ATTENTION + _HISTORY,
    ),
    Candidate(
        "max, padded, attention, history, host per decode, graphs apart",
        _BASE,
        _DECODE,
        ("base_s", "per_decode_s"),
        _PREFILL + _ATTENTION + _HISTORY,
        graphs_apart=True,
    ),
    Candidate(
        "max, padded, attention, history, host per decode, graphs apart, median cell",
        _BASE,
        _DECODE,
        ("base_s", "per_decode_s"),
        _PREFILL + _ATTENTION + _HISTORY,
        graphs_apart=True,
        median_cell=True,
    ),
    Candidate(
        "max, padded, attention, history, per prefill",
        _BASE,
        _DECODE,
        _BASE,
        (*_PREFILL, *_ATTENTION, *_HISTORY, "per_prefill_s"),
    ),
    Candidate(
        "max, padded, attention, history, per request",
        ("base_s", "per_decode_s"),
        (*_DECODE, "per_decode_s"),
        _BASE,
        _PREFILL + _ATTENTION + _HISTORY,
    ),
)
CHOSEN = "max, padded, attention, history"


def find_candidate(name: str) -> Candidate:
    """Return the candidate called `name`.

    Raises:
        ValueError: there is none; lists what exists.
    """
    for known in CANDIDATES:
        if known.name == name:
            return known
    raise ValueError(f"unknown model {name!r}: expected one of {'; '.join(c.name for c in CANDIDATES)}")


@dataclass(frozen=True)
class Graphs:
    """Which CUDA graphs the recorded engine had captured, see :class:`~bidkv.profiles.StepTimeProfile`.

    Attributes:
        max_tokens: tokens of the largest graph; larger steps are launched kernel by kernel.
        for_prefill: whether steps with prefill run in graphs, too.
    """

    max_tokens: int = 512
    for_prefill: bool = True

    def launch_sizes(self, log: StepLog) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the tokens that each step is padded to, and whether it ran in a graph; one entry a step."""
        tokens = log.tokens
        limit = np.where(log.prefill > 0, self.max_tokens if self.for_prefill else 0, self.max_tokens)
        in_graph = tokens <= limit
        padded = np.array([padded_tokens(int(count)) for count in tokens])
        return np.where(in_graph, np.minimum(padded, self.max_tokens), tokens).astype(np.float64), in_graph


def read_graphs(steps: Path, max_tokens: int | None = None, for_prefill: bool | None = None) -> Graphs:
    """Return the graphs of a step log: as stated, else as its recorder noted, else vLLM's defaults.

    Args:
        steps: the log; its recorder's notes are beside it, in ``*.meta.json``.
        max_tokens: what the caller states, or None.
        for_prefill: the same.

    Raises:
        ValueError: the notes are there but cannot be read.
    """
    noted: dict[str, Any] = {}
    meta = steps.with_suffix(".meta.json")
    if meta.is_file():
        try:
            found = json.loads(meta.read_text(encoding="utf-8"))
            # vLLM's FULL and ..PIECEWISE modes put steps with prefill into graphs, FULL_DECODE_ONLY does not.
            mode = str(found["cudagraph_mode"]).rpartition(".")[2]
            noted = {
                "max_tokens": int(found["graph_max_tokens"]),
                "for_prefill": mode == "FULL" or mode.endswith("PIECEWISE"),
            }
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{meta}: expected a JSON object with graph_max_tokens and cudagraph_mode ({error!r:.100})"
            ) from error
    stated = {"max_tokens": max_tokens, "for_prefill": for_prefill}
    return Graphs(**(noted | {key: value for key, value in stated.items() if value is not None}))


def fit(
    log: StepLog,
    model: Candidate,
    name: str,
    graphs: Graphs,
    notes: str = "",
    known: KnownMinima | None = None,
) -> StepTimeProfile:
    """Fit `model` to the steps of `log`.

    Args:
        log: recorded steps.
        model: which costs are fitted.
        name: of the profile.
        graphs: which steps ran in a captured graph.
        notes: of the profile.
        known: minima found before, to which this fit adds its own: candidate models share most of their
            parts.

    Raises:
        ValueError: the log has no decode step or no step with prefill.
    """
    busy = log.where(log.tokens > 0)
    decoding, prefilling = busy.where(busy.prefill == 0), busy.where(busy.prefill > 0)
    for kind, part in (("decode steps", decoding), ("steps with prefill", prefilling)):
        if not len(part):
            raise ValueError(f"{log.source}: expected some {kind}, found none: a profile needs both")
    host, gpu = _fit_lines(
        decoding, graphs, {True: model.decode_host}, model.decode_gpu, model.median_cell, known
    )
    graph, eager = _fit_prefill(prefilling, graphs, model, known)
    idle = log.step_s[log.tokens == 0]
    return StepTimeProfile(
        name=name,
        kind="fitted",
        decode=Regime(host[True], gpu),
        graph=graph,
        eager=eager,
        empty_step_s=_round_digits(float(np.median(idle))) if len(idle) else ASSUMED_EMPTY_STEP_S,
        graph_max_tokens=graphs.max_tokens,
        prefill_graphs=graphs.for_prefill,
        notes=notes,
    )


def predict(profile: StepTimeProfile, log: StepLog) -> Floats:
    """Return the seconds that `profile` gives each step of `log`, in its order."""
    columns = (log.prefill, log.attention, log.decode, log.context, log.prefills)
    return np.array([profile.step_s(*row) for row in zip(*(c.tolist() for c in columns), strict=True)])


def _fit_prefill(
    log: StepLog, graphs: Graphs, model: Candidate, known: KnownMinima | None
) -> tuple[Regime, Regime]:
    """Return the regimes of steps with prefill: in a captured graph, and launched kernel by kernel."""
    _, in_graph = graphs.launch_sizes(log)
    hosts_wanted = {True: model.eager_host[:1], False: model.eager_host}
    parts = [np.ones(len(log), dtype=bool)]
    if model.graphs_apart and in_graph.any() and not in_graph.all():
        parts = [in_graph, ~in_graph]
    ways = {}
    for part in parts:
        hosts, gpu = _fit_lines(
            log.where(part), graphs, hosts_wanted, model.prefill_gpu, model.median_cell, known
        )
        ways.update({way: Regime(host, gpu) for way, host in hosts.items()})
    # A way of launching that the log never shows takes the lines of the other.
    seen = next(iter(ways.values()))
    return ways.get(True, seen), ways.get(False, seen)


def cost_features(
    launched: Floats,
    tokens: Floats | Ints,
    decode: Floats | Ints,
    context: Floats | Ints,
    attention: Floats,
    prefills: Floats | Ints,
) -> dict[str, Floats]:
    """Return what multiplies each coefficient of a :class:`~bidkv.profiles.CostLine`, by its name.

    Every argument and every value of the result has one entry a step.

    Args:
        launched: tokens that the step was padded to.
        tokens: tokens scheduled.
        decode: requests that decoded.
        context: tokens resident of the scheduled requests, the step's own included.
        attention: query-key pairs of the prefill.
        prefills: requests that prefilled.
    """
    columns = {
        "base_s": np.ones(len(launched)),
        "per_token_s": launched,
        "per_decode_s": decode,
        "per_context_token_s": context,
        "per_attention_s": attention,
        "per_prefill_s": prefills,
        "history_s": context > tokens,
    }
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def _fit_lines(
    log: StepLog,
    graphs: Graphs,
    host_names: dict[bool, Names],
    gpu_names: Names,
    median_cell: bool,
    known: KnownMinima | None,
) -> tuple[dict[bool, CostLine], CostLine]:
    """Return host lines by whether the step ran in a graph, and the GPU line."""
    launched, in_graph = graphs.launch_sizes(log)
    if True in host_names and False not in host_names:
        in_graph = np.ones(len(log), dtype=bool)
    features = cost_features(launched, log.tokens, log.decode, log.context, log.attention, log.prefills)
    parts: list[tuple[bool | None, Names]] = [(None, gpu_names)]
    parts += [(way, names) for way, names in host_names.items() if names and (in_graph == way).any()]
    width = sum(len(names) for _, names in parts)
    gpu, host = np.zeros((len(log), width)), np.zeros((len(log), width))
    start = 0
    for way, names in parts:
        for offset, feature in enumerate(names, start):
            if way is None:
                gpu[:, offset] = features[feature]
            else:
                host[:, offset] = np.where(in_graph == way, features[feature], 0.0)
        start += len(names)
    cell = log.cell if median_cell else np.zeros_like(log.cell)
    solution = _fit_larger(gpu, host, log.step_s, cell, known)
    lines: dict[bool | None, CostLine] = {way: CostLine() for way in host_names}
    start = 0
    for way, names in parts:
        values = solution[start : start + len(names)]
        lines[way] = CostLine(**{n: _round_digits(float(v)) for n, v in zip(names, values, strict=True)})
        start += len(names)
    seen = {way: lines[way] for way in host_names if (in_graph == way).any()}
    return seen, lines[None]


def _fit_larger(gpu: Floats, host: Floats, step_s: Floats, cell: Ints, known: KnownMinima | None) -> Floats:
    """Return x >= 0 with max(gpu @ x, host @ x) near `step_s`, and right in the mean of the median `cell`."""
    key = sha256(b"".join(part.tobytes() for part in (gpu, host, step_s))).digest()
    if known is None or key not in known:
        found = _find_minimum(gpu, host, step_s)
        if known is not None:
            known[key] = found
    else:
        found = known[key]
    fitted = _larger(gpu @ found, host @ found, None)[0]
    usual = step_s < _OUTLIER * fitted
    return np.asarray(found * _level(fitted[usual], step_s[usual], cell[usual]))


def _find_minimum(gpu: Floats, host: Floats, step_s: Floats) -> Floats:
    """Return x >= 0 with max(gpu @ x, host @ x) near `step_s`."""
    both = np.abs(gpu) + np.abs(host)
    scale = np.maximum(both.mean(axis=0), 1e-300) / step_s.mean()
    gpu, host = gpu / scale, host / scale
    on_gpu = gpu.any(axis=0)
    start = np.where(on_gpu, lsq_linear(gpu / step_s[:, None], np.ones(len(step_s)), (0.0, np.inf)).x, 0.0)
    for column in np.flatnonzero(~on_gpu):
        rows = host[:, column] > 0
        start[column] = np.quantile(step_s[rows] / host[rows, column], 0.1)
    # With few steps the problem has several minima of nearly equal loss, and the rounding of a last bit would
    # decide which one is found. The best of several starts depends less on the machine.
    few = len(step_s) < _STEPS_PER_COEFFICIENT * gpu.shape[1]
    starts = [np.where(on_gpu, start, start * factor) for factor in (_HOST_FACTORS if few else (1.0,))]
    start = min((_descend(gpu, host, step_s, each) for each in starts), key=lambda found: found[0])[1]
    return np.asarray(start / scale)


def _descend(gpu: Floats, host: Floats, step_s: Floats, start: Floats) -> tuple[float, Floats]:
    """Return the loss and the place of the minimum that p-norms of growing p lead to from `start`."""
    loss = 0.0
    for norm in _NORMS:
        solution = least_squares(
            lambda x, norm=norm: _larger(gpu @ x, host @ x, norm)[0] / step_s - 1.0,
            np.maximum(start, 1e-9),
            jac=lambda x, norm=norm: _slope(gpu, host, x, norm) / step_s[:, None],
            bounds=(0.0, np.inf),
            loss="soft_l1",
            f_scale=_LOSS_SCALE,
            ftol=1e-14,
            xtol=1e-14,
            gtol=1e-14,
            max_nfev=400,
        )
        loss, start = float(f"{solution.cost:.9g}"), solution.x
    return loss, start


def _level(fitted_s: Floats, step_s: Floats, cell: Ints) -> float:
    """Return recorded over fitted time of the median cell; a cell is weighted by its time."""
    places = np.unique(cell, return_inverse=True)[1]
    weights = np.bincount(places, weights=fitted_s)
    levels = np.bincount(places, weights=step_s) / weights
    order = np.argsort(levels)
    reached = np.cumsum(weights[order])
    return float(levels[order][np.searchsorted(reached, reached[-1] / 2)])


def _larger(gpu_s: Floats, host_s: Floats, norm: float | None) -> tuple[Floats, Floats, Floats]:
    """Return the larger of two (the p-norm when `norm` is given), and its derivatives by both."""
    top = np.maximum(np.maximum(gpu_s, host_s), 1e-300)
    if norm is None:
        return top, (gpu_s >= host_s).astype(np.float64), (gpu_s < host_s).astype(np.float64)
    value = top * ((gpu_s / top) ** norm + (host_s / top) ** norm) ** (1.0 / norm)
    return value, (gpu_s / value) ** (norm - 1.0), (host_s / value) ** (norm - 1.0)


def _slope(gpu: Floats, host: Floats, x: Floats, norm: float | None) -> Floats:
    _, by_gpu, by_host = _larger(gpu @ x, host @ x, norm)
    return np.asarray(by_gpu[:, None] * gpu + by_host[:, None] * host)


def _round_digits(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
