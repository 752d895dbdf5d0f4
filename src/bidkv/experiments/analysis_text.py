"""An analysis for people: in words, as Markdown tables, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from statistics import fmean

from bidkv.evaluation.figures import PREEMPTIONS, Figure
from bidkv.evaluation.tables import markdown_table
from bidkv.experiments.analysis import ComparisonVerdict, ExperimentAnalysis, StrategyVerdict, summarize_run
from bidkv.experiments.plan import LoadPoint

_MARK = {
    ComparisonVerdict.BETTER: "better",
    ComparisonVerdict.WORSE: "worse",
    ComparisonVerdict.NOT_SHOWN: "-",
    ComparisonVerdict.REFUSED: "refused",
}


def describe(analysis: ExperimentAnalysis) -> str:
    """Return the verdict in words: a line for each strategy, then what a reader must know beside them."""
    return "\n".join([*verdict_sentences(analysis), *cautions(analysis)])


def verdict_sentences(analysis: ExperimentAnalysis) -> list[str]:
    """Return the changes over all cells in one sentence, then one sentence per strategy: where it holds."""
    headline_figure = analysis.figures[0]
    overall = [each for each in analysis.overall if each.figure is headline_figure]
    if not overall:
        return [f"{analysis.baseline} ran alone: there is nothing to compare."]
    changes = [f"{o.strategy} {'no value' if o.effect is None else o.effect}" for o in overall]
    headline = (
        f"Against {analysis.baseline}, {headline_figure.label} over {len(analysis.plan.loads)} "
        f"load{'s' * (len(analysis.plan.loads) > 1)}: {', '.join(changes)}."
    )
    return [headline, *(_describe_strategy(analysis, each) for each in overall)]


def _describe_strategy(analysis: ExperimentAnalysis, overall: StrategyVerdict) -> str:
    num_cells = len(analysis.plan.loads)
    counts = overall.counts
    text = (
        f"{overall.strategy} against {analysis.baseline}, {overall.figure.label}: better in "
        f"{counts[ComparisonVerdict.BETTER]} of {num_cells} cell{'s' * (num_cells != 1)}, worse in "
        f"{counts[ComparisonVerdict.WORSE]}, no difference shown in {counts[ComparisonVerdict.NOT_SHOWN]}"
    )
    if counts[ComparisonVerdict.REFUSED]:
        text += f", a claim refused in {counts[ComparisonVerdict.REFUSED]}"
    own = [c for c in analysis.cells if c.strategy == overall.strategy and c.figure is overall.figure]
    effects = [(cell.effect.estimate, cell) for cell in own if cell.effect is not None]
    if len(effects) > 1:
        sign = 1 if overall.figure.better == "lower" else -1
        best = min(effects, key=lambda pair: sign * pair[0])[1]
        worst = max(effects, key=lambda pair: sign * pair[0])[1]
        text += f"; best {best.load} {best.effect}, worst {worst.load} {worst.effect}"
    return text + "."


def cautions(analysis: ExperimentAnalysis) -> Iterator[str]:
    """Yield what a reader must know: missing runs, chance, refusals, order, and whether memory was short."""
    plan = analysis.plan
    planned = len(plan.cells())
    if len(analysis.runs) < planned:
        yield f"{planned - len(analysis.runs)} of {planned} runs have no result."
    if plan.runs < 3 and len(plan.strategies) > 1:
        yield f"{plan.runs} run{'s' * (plan.runs > 1)} a cell: too few to show any but huge effects."
    if analysis.overall and analysis.overall[0].by_chance:
        yield (
            f"Of the cells of one strategy and figure about {analysis.overall[0].by_chance:.2g} would be "
            "called better or worse by chance alone."
        )
    for reason, cells in _refusals(analysis).items():
        yield f"Refused ({', '.join(cells)}): {reason}."
    if analysis.order is not None:
        effect = "changes" if analysis.order.is_shown else "shows no change of"
        yield (
            f"Each position later in a group {effect} {analysis.figures[0].label}: {analysis.order} "
            "(the order alternates)."
        )
    if (lag_ms := _worst_send_lag_ms(analysis)) is not None:
        yield f"Requests were sent at most {lag_ms:,.0f} ms late (99th percentile of the worst run)."
    if all(not run.result.totals.preemptions for run in analysis.runs):
        yield "Nothing was preempted: no choice of victim mattered."


def _worst_send_lag_ms(analysis: ExperimentAnalysis) -> float | None:
    """Return the largest p99 of send lag of a run; None where no run was sent to a real server."""
    loads = [load for run in analysis.runs if isinstance(load := run.result.notes.get("load"), dict)]
    lags = [lag for load in loads if isinstance(lag := load.get("send_lag_p99_ms"), int | float)]
    return max(lags, default=None)


def _refusals(analysis: ExperimentAnalysis) -> dict[str, list[str]]:
    """Return the refused cells by reason."""
    refused: dict[str, list[str]] = {}
    for cell in analysis.cells:
        if cell.verdict is ComparisonVerdict.REFUSED:
            name = f"{cell.strategy}, {cell.load}"
            if name not in refused.setdefault(cell.reason, []):
                refused[cell.reason].append(name)
    return refused


def mean_figure(analysis: ExperimentAnalysis, load: LoadPoint, strategy: str, figure: Figure) -> float | None:
    """Return a figure's mean over a cell's runs; None when no run has it."""
    values = [
        figure.read(summarize_run(run, analysis.objective))
        for run in analysis.runs
        if (run.cell.group.load, run.cell.strategy) == (load, strategy)
    ]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def markdown(analysis: ExperimentAnalysis) -> str:
    """Return the whole analysis as Markdown: words, means, and every verdict of every figure."""
    plan = analysis.plan
    lines = [f"# {plan.engine}: {', '.join(plan.strategies)}", ""]
    lines += [f"- {line}" for line in describe(analysis).splitlines()]
    lines += [
        "",
        f"{plan.runs} runs of {plan.requests} requests a cell; objective: {analysis.objective}.",
        "",
    ]
    lines += ["## Means over runs", ""]
    headings = ["load", "strategy", *(figure.heading for figure in analysis.columns)]
    lines += markdown_table(headings, mean_rows(analysis))
    others = [label for label in plan.strategies if label != analysis.baseline]
    for figure in analysis.figures if others else ():
        lines += ["", f"## Against {analysis.baseline}: {figure.label}", ""]
        rows = [
            [str(load), *(_describe_cell(analysis, load, label, figure) for label in others)]
            for load in plan.loads
        ]
        lines += markdown_table(["load", *others], rows)
    if analysis.failures:
        lines += ["", "## Without a result", ""]
        lines += [f"- {cell}: {error}" for cell, error in analysis.failures.items()]
    return "\n".join(lines) + "\n"


def runs_csv(analysis: ExperimentAnalysis) -> str:
    """Return one row per run: its cell, its position, and every figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["workload", "rate_rps", "run", "strategy", "position", *(f.path for f in analysis.columns)]
    )
    for run in analysis.runs:
        cell, summary = run.cell, summarize_run(run, analysis.objective)
        load = cell.group.load
        place = [load.workload, load.rate_rps, cell.group.repetition + 1, cell.strategy, cell.position]
        writer.writerow([*place, *(figure.read(summary) for figure in analysis.columns)])
    return text.getvalue()


def mean_rows(analysis: ExperimentAnalysis) -> list[list[str]]:
    """Return the table of means as text: load, strategy, then a cell for each of the analysis's columns."""
    rows = []
    for load in analysis.plan.loads:
        for label in analysis.plan.strategies:
            values = [(figure, mean_figure(analysis, load, label, figure)) for figure in analysis.columns]
            shown = ["-" if v is None else f"{v:,.1f}" if f is PREEMPTIONS else f.show(v) for f, v in values]
            rows.append([str(load), label, *shown])
    return rows


def _describe_cell(analysis: ExperimentAnalysis, load: LoadPoint, label: str, figure: Figure) -> str:
    cell = analysis.cell(load, label, figure)
    return "no pair" if cell.effect is None else f"{cell.effect} {_MARK[cell.verdict]}"
