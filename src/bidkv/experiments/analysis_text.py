"""An outcome for people: in words, and as Markdown tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from statistics import fmean

from bidkv.evaluation.figures import PREEMPTIONS, TABLE, Figure
from bidkv.evaluation.tables import markdown_table
from bidkv.experiments.analysis import ATTAINMENT, GOODPUT, JUDGED, Outcome, Overall, Verdict, summary_of
from bidkv.experiments.plan import Load

COLUMNS = (*TABLE, GOODPUT, ATTAINMENT)
"""The columns of the table of means, in order."""

_MARK = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.NOT_SHOWN: "-", Verdict.REFUSED: "refused"}


def in_words(outcome: Outcome) -> str:
    """Return the verdict as sentences, one line a strategy, then what has to be known to read them."""
    return "\n".join([*sentences(outcome), *cautions(outcome)])


def sentences(outcome: Outcome) -> list[str]:
    """Return the changes over all cells in one sentence, then one a strategy: in how many cells it holds."""
    overall = [each for each in outcome.overall if each.figure is JUDGED[0]]
    if not overall:
        return [f"{outcome.baseline} ran alone: there is nothing to compare."]
    changes = [f"{o.strategy} {'no value' if o.effect is None else o.effect}" for o in overall]
    headline = (
        f"Against {outcome.baseline}, {JUDGED[0].label} over {len(outcome.plan.loads)} "
        f"load{'s' * (len(outcome.plan.loads) > 1)}: {', '.join(changes)}."
    )
    return [headline, *(_sentence(outcome, each) for each in overall)]


def _sentence(outcome: Outcome, overall: Overall) -> str:
    cells = len(outcome.plan.loads)
    counts = overall.counts
    text = (
        f"{overall.strategy} against {outcome.baseline}, {overall.figure.label}: better in "
        f"{counts[Verdict.BETTER]} of {cells} {'cell' if cells == 1 else 'cells'}, worse in "
        f"{counts[Verdict.WORSE]}, no difference shown in {counts[Verdict.NOT_SHOWN]}"
    )
    if counts[Verdict.REFUSED]:
        text += f", a claim refused in {counts[Verdict.REFUSED]}"
    own = [j for j in outcome.judged if j.strategy == overall.strategy and j.figure is overall.figure]
    effects = [(j.effect.estimate, j) for j in own if j.effect is not None]
    if len(effects) > 1:
        sign = 1 if overall.figure.better == "lower" else -1
        best = min(effects, key=lambda pair: sign * pair[0])[1]
        worst = max(effects, key=lambda pair: sign * pair[0])[1]
        text += f"; best {best.load} {best.effect}, worst {worst.load} {worst.effect}"
    return text + "."


def cautions(outcome: Outcome) -> Iterator[str]:
    """Yield what a reader has to know: chance, order, refusals, what is missing."""
    plan = outcome.plan
    planned = len(plan.cells())
    if len(outcome.runs) < planned:
        yield f"{planned - len(outcome.runs)} of {planned} runs have no result."
    if plan.runs < 3 and len(plan.strategies) > 1:
        yield f"{plan.runs} run{'s' * (plan.runs > 1)} a cell: too few to show any but huge effects."
    if outcome.overall and outcome.overall[0].by_chance:
        yield (
            f"Of the cells of one strategy and figure about {outcome.overall[0].by_chance:.2g} would be "
            "called better or worse by chance alone."
        )
    for reason, cells in _refusals(outcome).items():
        yield f"Refused ({', '.join(cells)}): {reason}."
    if outcome.order is not None:
        effect = "changes" if outcome.order.is_shown else "shows no change of"
        yield f"Each place later in a block {effect} {JUDGED[0].label}: {outcome.order} (order alternates)."
    if all(not run.result.totals.preemptions for run in outcome.runs):
        yield "Nothing was preempted: memory was never short, so no choice of victim mattered."


def _refusals(outcome: Outcome) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for j in outcome.judged:
        if j.verdict is Verdict.REFUSED:
            name = f"{j.strategy}, {j.load}"
            if name not in found.setdefault(j.reason, []):
                found[j.reason].append(name)
    return found


def mean_of(outcome: Outcome, load: Load, strategy: str, figure: Figure) -> float | None:
    """Return a figure's mean over a cell's runs; None when none has it."""
    values = [
        figure.read(summary_of(run, outcome.objective))
        for run in outcome.runs
        if (run.cell.block.load, run.cell.strategy) == (load, strategy)
    ]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def markdown(outcome: Outcome) -> str:
    """Return the whole outcome as Markdown: words, means, and every verdict of every figure."""
    plan = outcome.plan
    lines = [f"# {plan.engine}: {', '.join(plan.strategies)}", ""]
    lines += [f"- {line}" for line in in_words(outcome).splitlines()]
    lines += ["", f"{plan.runs} runs of {plan.requests} requests a cell; objective: {outcome.objective}.", ""]
    lines += ["## Means over runs", ""]
    lines += markdown_table(["load", "strategy", *(figure.heading for figure in COLUMNS)], mean_rows(outcome))
    for figure in JUDGED:
        others = [label for label in plan.strategies if label != outcome.baseline]
        if not others:
            break
        lines += ["", f"## Against {outcome.baseline}: {figure.label}", ""]
        rows = [
            [str(load), *(_judged(outcome, load, label, figure) for label in others)] for load in plan.loads
        ]
        lines += markdown_table(["load", *others], rows)
    if outcome.failures:
        lines += ["", "## Without a result", ""]
        lines += [f"- {cell}: {error}" for cell, error in outcome.failures.items()]
    return "\n".join(lines) + "\n"


def runs_csv(outcome: Outcome) -> str:
    """Return one row a run: its cell, its place, and every figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["workload", "rate_rps", "run", "strategy", "position", *(f.path for f in COLUMNS)])
    for run in outcome.runs:
        cell, summary = run.cell, summary_of(run, outcome.objective)
        load = cell.block.load
        place = [load.workload, load.rate_rps, cell.block.repetition + 1, cell.strategy, cell.position]
        writer.writerow([*place, *(figure.read(summary) for figure in COLUMNS)])
    return text.getvalue()


def mean_rows(outcome: Outcome) -> list[list[str]]:
    """Return the table of means as text: load, strategy, then a cell for each of :data:`COLUMNS`."""
    rows = []
    for load in outcome.plan.loads:
        for label in outcome.plan.strategies:
            values = [(figure, mean_of(outcome, load, label, figure)) for figure in COLUMNS]
            shown = ["-" if v is None else f"{v:,.1f}" if f is PREEMPTIONS else f.show(v) for f, v in values]
            rows.append([str(load), label, *shown])
    return rows


def _judged(outcome: Outcome, load: Load, label: str, figure: Figure) -> str:
    judged = outcome.of(load, label, figure)
    return "no pair" if judged.effect is None else f"{judged.effect} {_MARK[judged.verdict]}"
