"""The page of an experiment: verdict first, then where it holds, then why."""

from __future__ import annotations

from pathlib import Path

from bidkv.experiments.analysis import ExperimentAnalysis
from bidkv.experiments.analysis_text import cautions, mean_rows, verdict_sentences
from bidkv.report import charts, experiment_charts
from bidkv.report import experiment_series as rows
from bidkv.report.page import Section, render
from bidkv.results.files import write_output


def write_experiment_page(path: Path, analysis: ExperimentAnalysis) -> None:
    """Write the self-contained page; its folder is made when missing.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, render_experiment_page(analysis), "backslashreplace")


def render_experiment_page(analysis: ExperimentAnalysis) -> str:
    """Return the page as text; the same analysis gives the same page."""
    plan = analysis.plan
    loads = [str(load) for load in plan.loads]
    compared = len(plan.strategies) > 1
    datasets = {
        "verdicts": rows.verdict_rows(analysis),
        "latency": rows.latency_rows(analysis),
        "timeline": rows.timeline_rows(analysis),
        "tax": rows.tax_rows(analysis),
        "requests": rows.request_rows(analysis),
        "fairness": rows.fairness_rows(analysis),
        "figures": rows.figure_rows(analysis),
    }
    return render(
        "experiment.html.j2",
        _sections(analysis, loads, compared),
        datasets,
        title=f"{len(plan.strategies)} strategies, {len(loads)} loads, {plan.runs} runs on {plan.engine}",
        verdict=verdict_sentences(analysis),
        cautions=list(cautions(analysis)),
        strategies=plan.strategies,
        baseline=analysis.baseline,
        loads=loads,
        figures=[figure.label for figure in analysis.figures] if compared else [],
        headings=["load", "strategy", *(figure.heading for figure in analysis.columns)],
        rows=mean_rows(analysis),
        objective=analysis.objective,
        config=_config(analysis),
    )


def _sections(analysis: ExperimentAnalysis, loads: list[str], compared: bool) -> list[Section]:
    names, baseline, first = list(analysis.plan.strategies), analysis.baseline, loads[0]
    sections = [
        Section(
            "Latency",
            "Nearest-rank percentiles of all requests of a cell's runs. Further left is faster.",
            "latency",
            charts.latency_curves(names, baseline, first),
        ),
        Section(
            "Memory, preemptions and queue over time",
            "Of each strategy's first run of the load chosen above.",
            "timeline",
            charts.timelines(names, baseline, first),
        ),
        Section(
            "Recompute tax",
            "The share of all computed tokens that were computed before and lost to a preemption.",
            "tax",
            [charts.tax_bars(names, first)],
        ),
        Section(
            "Fairness",
            "Which requests pay for the mean: where a line rises to the left, small ones wait longer per "
            "token.",
            "fairness",
            experiment_charts.fairness(names, first),
        ),
    ]
    if compared:
        figures = [figure.label for figure in analysis.figures]
        sections.insert(
            0,
            Section(
                "Where it holds",
                f"Every load and strategy, none left out, of the figure chosen above. Blue is better than "
                f"{baseline}, orange worse.",
                "verdicts",
                [experiment_charts.heat_map(loads, names, baseline, figures)],
            ),
        )
        sections.append(
            Section(
                "Request by request",
                "The identical request under both, first run of the load; in a large run every n-th.",
                "requests",
                [experiment_charts.request_dots(names, baseline, first)],
            )
        )
    return sections


def _config(analysis: ExperimentAnalysis) -> dict[str, object]:
    plan = analysis.plan
    return {
        "engine": plan.engine,
        "strategies": ", ".join(plan.strategies),
        "loads": ", ".join(map(str, plan.loads)),
        "runs": plan.runs,
        "requests of a run": plan.requests,
        "seed": plan.seed,
        **plan.options,
        **analysis.runs[0].result.notes.get("engine", {}),
    }
