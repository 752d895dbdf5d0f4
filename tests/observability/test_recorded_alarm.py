"""The alert on recorded series: what scrapes of vLLM's real scheduler showed from 30 to 150 % of its rate.

`.venv-vllm/bin/python -m tests.vllm.alarm tests/data/alarm/recorded.json` records them, and what is missing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.stability.loads import END_S, EVERY_S, SETTLED_S, STABLE_LOADS, UNSTABLE_LOADS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yml"
RUNS: list[dict[str, Any]] = json.loads((ROOT / "tests/data/alarm/recorded.json").read_text())
MINUTES = int(END_S // 60)


def samples(run: dict[str, Any]) -> list[int | None]:
    """What a run's scrapes showed every five seconds: 1 or 0, or None before the controller had data."""
    expanded: list[int | None] = []
    for value, count in re.findall(r"(\S)x(\d+)", run["is_stable"]):
        expanded += [None if value == "_" else int(value)] * int(count)
    return expanded


def settled(load: float) -> list[int | None]:
    """The samples of all runs at a load, after the settling time."""
    return [each for run in RUNS if run["load"] == load for each in samples(run)[int(SETTLED_S / EVERY_S) :]]


def server(run: dict[str, Any]) -> str:
    return f"{run['law']}-{run['blocks']}-{run['load']}"


def test_every_load_of_every_law_and_size_was_recorded() -> None:
    places = {(run["law"], run["blocks"]) for run in RUNS}
    assert len({law for law, _ in places}) >= 3
    assert len({blocks for _, blocks in places}) >= 2
    assert {(*place, load) for place in places for load in (*STABLE_LOADS, 0.95, *UNSTABLE_LOADS)} == {
        (run["law"], run["blocks"], run["load"]) for run in RUNS
    }
    # The last scrape is due at the very end; a run whose last step begins before it lacks it.
    due = END_S / EVERY_S
    assert all(due - 1 <= len(samples(run)) <= due for run in RUNS)


@pytest.mark.parametrize("load", STABLE_LOADS)
def test_a_load_up_to_90_percent_was_called_stable(load: float) -> None:
    seen = settled(load)
    assert sum(value == 1 for value in seen) >= 0.99 * len(seen)


@pytest.mark.parametrize("load", UNSTABLE_LOADS)
def test_a_load_from_105_percent_on_was_called_unstable(load: float) -> None:
    seen = settled(load)
    assert sum(value == 0 for value in seen) >= 0.95 * len(seen)


def promtool_test(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A unit test of the rules: silent on every stable run, firing at the end of every unstable one."""

    def about(run: dict[str, Any]) -> dict[str, Any]:
        values = " ".join("_" if value is None else str(value) for value in samples(run))
        firing = f'count_over_time(ALERTS{{alertname="BidkvUnstable",alertstate="firing"}}[{MINUTES}m]) > 0'
        alerts = []
        if run["load"] in UNSTABLE_LOADS:
            labels = {"server": server(run), "severity": "warning"}
            alerts = [{"exp_labels": labels, "exp_annotations": alert_texts(server(run))}]
        return {
            "name": server(run),
            "interval": f"{EVERY_S:.0f}s",
            "input_series": [{"series": f'queueing_is_stable{{server="{server(run)}"}}', "values": values}],
            "alert_rule_test": [
                {"eval_time": f"{MINUTES - 1}m", "alertname": "BidkvUnstable", "exp_alerts": alerts}
            ],
            # Over the whole run: an alert that came and went would count as well.
            "promql_expr_test": []
            if alerts
            else [{"expr": firing, "eval_time": f"{MINUTES}m", "exp_samples": []}],
        }

    return {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [about(run) for run in runs]}


def alert_texts(name: str) -> dict[str, str]:
    """The alert's texts, as the rules state them."""
    rule = RULES.read_text(encoding="utf-8").partition("- alert: BidkvUnstable")[2]
    texts = dict(re.findall(r'(summary|description): "([^"]+)"', rule.partition("- alert:")[0]))
    return {key: text.replace("{{ $labels.server }}", name) for key, text in texts.items()}


def run_promtool(folder: Path, runs: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("needs promtool: scripts/setup-prometheus.sh")
    file = folder / "recorded_test.yml"
    file.write_text(json.dumps(promtool_test(runs)))  # JSON is YAML
    return subprocess.run([tool, "test", "rules", str(file)], capture_output=True, text=True, check=False)


@pytest.mark.prometheus
def test_the_alert_is_silent_on_stable_series_and_fires_on_unstable_ones(tmp_path: Path) -> None:
    runs = [run for run in RUNS if run["load"] in (*STABLE_LOADS, *UNSTABLE_LOADS)]
    done = run_promtool(tmp_path, runs)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize(("true_load", "claimed"), [(0.9, 1.5), (1.5, 0.9)])
def test_promtool_would_see_the_difference(tmp_path: Path, true_load: float, claimed: float) -> None:
    (first, *_) = (run for run in RUNS if run["load"] == true_load)
    assert run_promtool(tmp_path, [{**first, "load": claimed}]).returncode != 0
