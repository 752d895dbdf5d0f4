"""Errors of a profile on recorded steps, regime by regime, and what a recording does not cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bidkv.calibration.fitting import Candidate, Graphs, KnownMinima, fit, predict
from bidkv.calibration.step_log import Floats, StepLog
from bidkv.profiles.model import padded_tokens
from bidkv.results.percentiles import nearest_rank

_BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKEN_EDGES = (64, 256, 512, 1024, 2047, 8192)
_FEW_STEPS = 10
"""Steps of one size below which a recording is said not to cover it."""


@dataclass(frozen=True)
class RegimeError:
    """Error of predicted step times over one group of steps.

    Attributes:
        regime: which steps.
        steps: number of steps.
        mean_ms: their recorded mean, milliseconds.
        total: predicted over recorded total time, less 1: the error of a run's length.
        signed: mean of predicted over recorded, less 1.
        absolute: mean of its absolute value.
        p95: nearest-rank 95th percentile of the absolute value.
    """

    regime: str
    steps: int
    mean_ms: float
    total: float
    signed: float
    absolute: float
    p95: float


@dataclass(frozen=True)
class CandidateError:
    """Error of one candidate model on grid cells it was not fitted to (leave one cell out).

    Attributes:
        model: name of the candidate.
        decode: mean absolute relative error over decode steps.
        prefill: the same over steps with prefill.
        cell_total: mean over cells of the absolute relative error of the cell's total time.
    """

    model: str
    decode: float
    prefill: float
    cell_total: float


def measure_by_regime(log: StepLog, predicted_s: Floats) -> list[RegimeError]:
    """Return errors by regime, by decode batch size and by tokens of steps with prefill; no empty groups.

    Args:
        log: the recorded steps.
        predicted_s: the profile's seconds of each of them, in their order.
    """
    return [_error(name, log.step_s[mask], predicted_s[mask]) for name, mask in _groups(log) if mask.any()]


def _groups(log: StepLog) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    tokens = log.tokens
    decoding, prefilling = (log.prefill == 0) & (tokens > 0), log.prefill > 0
    yield "all steps", tokens > 0
    yield "pure decode", decoding
    yield "pure prefill", prefilling & (log.decode == 0)
    yield "mixed", prefilling & (log.decode > 0)
    low = 0
    for high in _BATCH_EDGES:
        label = f"decode, {high} requests" if high - low == 1 else f"decode, {low + 1}-{high} requests"
        yield label, decoding & (log.decode > low) & (log.decode <= high)
        low = high
    low = 0
    for high in _TOKEN_EDGES:
        yield f"with prefill, {low + 1}-{high} tokens", prefilling & (tokens > low) & (tokens <= high)
        low = high


def _error(name: str, actual_s: Floats, predicted_s: Floats) -> RegimeError:
    relative = predicted_s / actual_s - 1.0
    absolute = np.abs(relative)
    return RegimeError(
        regime=name,
        steps=len(actual_s),
        mean_ms=float(actual_s.mean() * 1e3),
        total=float(predicted_s.sum() / actual_s.sum() - 1.0),
        signed=float(relative.mean()),
        absolute=float(absolute.mean()),
        p95=nearest_rank(sorted(absolute.tolist()), 95),
    )


def cross_validate(log: StepLog, model: Candidate, graphs: Graphs, known: KnownMinima) -> CandidateError:
    """Fit `model` once for each cell of `log`, without that cell, and measure it there.

    Args:
        log: steps of two cells or more, of which any but one have decode steps and steps with prefill.
        model: the candidate.
        graphs: the CUDA graphs of the recorded engine.
        known: what was found for other models of the same log, see :func:`~bidkv.calibration.fitting.fit`.

    Raises:
        ValueError: the log without one of its cells has no decode steps, or none with prefill.
    """
    predicted = np.zeros(len(log))
    totals = []
    for cell in np.unique(log.cell):
        held_out = log.cell == cell
        part = log.where(held_out)
        predicted[held_out] = predict(fit(log.where(~held_out), model, model.name, graphs, known=known), part)
        totals.append(abs(predicted[held_out].sum() / part.step_s.sum() - 1.0))
    absolute = np.abs(predicted / log.step_s - 1.0)
    return CandidateError(
        model=model.name,
        decode=float(absolute[log.prefill == 0].mean()),
        prefill=float(absolute[log.prefill > 0].mean()),
        cell_total=float(np.mean(totals)),
    )


def list_uncovered(log: StepLog, graphs: Graphs) -> list[str]:
    """Return what a profile fitted to `log` must extrapolate, in words, one line each; at least three.

    Args:
        log: the recorded steps, some of them decode steps.
        graphs: the CUDA graphs of the recorded engine.
    """
    tokens, prefilling = log.tokens, log.prefill > 0
    decodes = log.decode[~prefilling & (tokens > 0)]
    context_per_request = log.context / np.maximum(log.decode + log.prefills, 1)
    found = [
        f"steps of more than {tokens.max()} tokens",
        f"more than {log.context.max()} tokens resident, {context_per_request.max():.0f} a request",
        f"decode batches of more than {decodes.max()} requests",
    ]
    seen = {padded_tokens(int(count)) for count in decodes}
    sizes = sorted({padded_tokens(n) for n in range(1, int(decodes.max()) + 1)} - seen)
    if sizes:
        found.append(f"decode batches padded to {', '.join(map(str, sizes))}")
    low = 0
    for high in _TOKEN_EDGES:
        count = int((prefilling & (tokens > low) & (tokens <= high)).sum())
        if count < _FEW_STEPS and low < tokens.max():
            found.append(f"steps with prefill of {low + 1} to {high} tokens: {count} recorded")
        low = high
    if not (prefilling & graphs.launch_sizes(log)[1]).any():
        found.append("steps with prefill in a captured graph")
    if not (tokens == 0).any():
        found.append("steps that schedule nothing: their time is assumed")
    if not log.attention_recorded:
        found.append("chunk sizes: prefill attention is rebuilt, not recorded")
    return found
