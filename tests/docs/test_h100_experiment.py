"""docs/results/h100-experiment.md shows what the kept results of the H100 say, all of it as computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.evaluation.figures import E2E_MEAN, THROUGHPUT
from bidkv.experiments.analysis import REQUEST_VERDICTS, ExperimentAnalysis, analyze_store
from bidkv.experiments.analysis_text import markdown
from bidkv.experiments.store import Store

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/h100/experiment"
PAGE = (ROOT / "docs/results/h100-experiment.md").read_text(encoding="utf-8")


def between(name: str) -> list[str]:
    text = PAGE.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    return [line for line in text.splitlines() if line.strip()]


def kept(name: str) -> ExperimentAnalysis:
    return analyze_store(Store.open(KEPT / name))


def test_the_table_is_what_the_report_prints() -> None:
    outcome = kept("table")
    assert len(outcome.runs) == 45
    printed = {line.removeprefix("- ") for line in markdown(outcome).splitlines()}
    lines = between("h100")
    shown = [line for line in lines if line.startswith(("|", "Against"))]
    assert len(shown) == 1 + 17 + 5 + 5
    assert [line for line in shown if line not in printed] == []


def test_false_alarms_and_the_planted_slowdown_are_told_as_found() -> None:
    pairs = [kept("aa-code"), kept("aa-mixed")]
    alarms = sum(j.effect.is_shown for outcome in pairs for j in outcome.cells if j.effect is not None)
    in_means = sum(
        j.effect.is_shown for outcome in pairs for j in outcome.cells if j.effect and j.figure is E2E_MEAN
    )
    cells = sum(len(outcome.plan.loads) for outcome in pairs)
    slowed = kept("slowed")
    load = slowed.plan.loads[0]
    effects = {figure: slowed.cell(load, "slowed", figure).effect for figure in (E2E_MEAN, THROUGHPUT)}
    figures = cells * len(REQUEST_VERDICTS)
    assert "\n".join(between("h100-aa")) == (
        f"- The same policy twice: {in_means} of {cells} mean latencies and {alarms} of {figures} figures "
        f"are called different;\n  {0.05 * cells:g} and {0.05 * figures:g} would be expected.\n"
        f"- 10 % slower: mean latency {effects[E2E_MEAN]}, throughput {effects[THROUGHPUT]}."
    )
    assert alarms <= 8, "more false alarms than 70 figures at 5 % allow (binomial, 99 %)"
    effect = effects[E2E_MEAN]
    assert effect is not None
    assert effect.low > 0.0


@pytest.mark.parametrize("name", ["table", "aa-code", "aa-mixed", "slowed"])
def test_nothing_is_missing_from_the_kept_results(name: str) -> None:
    store = Store.open(KEPT / name)
    assert len(list(store.runs())) == len(store.plan.cells())
