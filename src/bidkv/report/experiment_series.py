"""From an experiment's analysis to rows of plain values, thinned so that any experiment fits one page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bidkv.experiments.analysis import CellVerdict, ExperimentAnalysis, summarize_run
from bidkv.experiments.plan import LoadPoint
from bidkv.experiments.store import StoredRun
from bidkv.report import series
from bidkv.report.series import Row, short
from bidkv.results import RequestRecord, RunResult

_CURVE_POINTS, _TIME_POINTS, _DOTS = 5_000, 6_000, 5_000
"""Rows that a data set of the page may have, about, however many cells there are."""

QUARTERS = ("smallest quarter", "second", "third", "largest quarter")
"""Requests of a load by prompt and output tokens."""


def verdict_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return one row a load, strategy and figure: change, interval, verdict; `gain` > 0 is better."""
    return [_verdict_row(judged) for judged in analysis.cells]


def _verdict_row(judged: CellVerdict) -> Row:
    effect, figure = judged.effect, judged.figure
    row: Row = {
        "load": str(judged.load),
        "strategy": judged.strategy,
        "figure": figure.label,
        "verdict": judged.verdict.value,
        "reason": judged.reason,
        "pairs": judged.pairs,
        "change": "no pair",
        "shown_change": "-",
        "gain": 0.0,
    }
    if effect is not None:
        sign = -1.0 if figure.better == "lower" else 1.0
        row["change"] = str(effect)
        # Where a value is 0 there is no percentage; shares are compared in points.
        row["gain"] = short(sign * 100.0 * effect.estimate)
        row["shown_change"] = f"{100.0 * effect.estimate:+.0f}" + ("" if effect.relative else " pt")
    return row


def latency_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return latency curves of each load, the runs of a cell taken together."""
    loads, strategies = analysis.plan.loads, analysis.plan.strategies
    steps = max(12, min(series.CDF_STEPS, _CURVE_POINTS // (2 * len(loads) * len(strategies))))
    rows = []
    for load in loads:
        together = [_together(label, runs) for label in strategies if (runs := _runs(analysis, load, label))]
        rows += [{"load": str(load), **row} for row in series.latency_rows(together, steps)]
    return rows


def timeline_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return timelines of each load, of each strategy's first run there."""
    loads, strategies = analysis.plan.loads, analysis.plan.strategies
    steps = max(12, min(series.TIME_STEPS, _TIME_POINTS // (len(loads) * len(strategies))))
    rows = []
    for load in loads:
        first = [runs[0].result for label in strategies if (runs := _runs(analysis, load, label))]
        rows += [{"load": str(load), **row} for row in series.timeline_rows(first, steps)]
    return rows


def tax_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return what was computed twice: one row a load and strategy, over its runs."""
    rows = []
    for load in analysis.plan.loads:
        for label in analysis.plan.strategies:
            totals = [run.result.totals for run in _runs(analysis, load, label)]
            scheduled, again = (
                sum(t.scheduled_tokens for t in totals),
                sum(t.recomputed_tokens for t in totals),
            )
            if totals:
                rows.append(
                    {
                        "load": str(load),
                        "strategy": label,
                        "recompute_tax": again / scheduled if scheduled else 0.0,
                        "recomputed_tokens": again,
                        "scheduled_tokens": scheduled,
                        "preemptions": sum(t.preemptions for t in totals),
                    }
                )
    return rows


def request_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return requests one by one, first run of each load: end-to-end seconds under baseline and strategy."""
    plan = analysis.plan
    others = [label for label in plan.strategies if label != analysis.baseline]
    room = max(12, _DOTS // max(1, len(plan.loads) * len(others)))
    rows = []
    for load in plan.loads:
        base = _runs(analysis, load, analysis.baseline)
        for label in others:
            ours = _runs(analysis, load, label)
            if base and ours:
                dots = _dots(base[0].result, ours[0].result)
                step = -(-len(dots) // room)
                rows += [{"load": str(load), "strategy": label, **dot} for dot in dots[:: max(step, 1)]]
    return rows


def _dots(base: RunResult, ours: RunResult) -> list[Row]:
    theirs = {record.request_id: record for record in base.completed}
    return [
        {
            "request": record.request_id,
            "tokens": record.prompt_tokens + record.output_tokens,
            "baseline_s": short(before),
            "strategy_s": short(now),
        }
        for record in ours.completed
        if record.request_id in theirs
        and (before := theirs[record.request_id].e2e_s) is not None
        and (now := record.e2e_s) is not None
    ]


def fairness_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return seconds for each output token by request size, and Jain's index over all requests.

    Jain's index (Jain, Chiu, Hawe 1984) of seconds per token: (sum x)^2 / (n * sum x^2), 1 when all wait
    alike.
    """
    rows = []
    for load in analysis.plan.loads:
        for label in analysis.plan.strategies:
            done = [
                r for run in _runs(analysis, load, label) for r in run.result.completed if r.output_tokens
            ]
            if len(done) < len(QUARTERS):
                continue
            done.sort(key=lambda r: r.prompt_tokens + r.output_tokens)
            paces = [_pace_s(record) for record in done]
            jain = sum(paces) ** 2 / (len(paces) * sum(p * p for p in paces))
            for index, name in enumerate(QUARTERS):
                part = paces[len(paces) * index // 4 : len(paces) * (index + 1) // 4]
                rows.append(
                    {
                        "load": str(load),
                        "strategy": label,
                        "quarter": name,
                        "seconds_per_token": short(fmean(part)),
                        "jain_index": short(jain),
                    }
                )
    return rows


def figure_rows(analysis: ExperimentAnalysis) -> list[Row]:
    """Return one row per run with every figure."""
    rows = []
    for run in analysis.runs:
        summary, cell = summarize_run(run, analysis.objective), run.cell
        place = {"load": str(cell.group.load), "run": cell.group.repetition + 1, "strategy": cell.strategy}
        rows.append(place | {figure.path: figure.read(summary) for figure in analysis.columns})
    return rows


def _runs(analysis: ExperimentAnalysis, load: LoadPoint, strategy: str) -> list[StoredRun]:
    return [r for r in analysis.runs if (r.cell.group.load, r.cell.strategy) == (load, strategy)]


def _together(label: str, runs: Sequence[StoredRun]) -> RunResult:
    records = [record for run in runs for record in run.result.records]
    return RunResult(label, records, runs[0].result.totals, 0.0, 0.0)


def _pace_s(record: RequestRecord) -> float:
    return (record.e2e_s or 0.0) / record.output_tokens
