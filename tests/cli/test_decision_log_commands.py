"""`bidkv explain`, `replay` and `timeline` on a log that `bidkv simulate` wrote."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402
from bidkv.observability.log_lines import DecisionLine, Preemption  # noqa: E402
from bidkv.observability.log_reader import read_log  # noqa: E402

RUNNER = typer_testing.CliRunner()
SIMULATE = ("simulate", "--limit", "150", "--num-gpu-blocks", "300", "--rate", "6")


def run(*arguments: object) -> Any:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    log = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    result = run(*SIMULATE, "--strategy", "bidkv", "--decision-log", log, "--json", "-")
    return log, json.loads(result.stdout)["runs"][0]


def test_simulate_writes_the_same_log_twice(simulated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    log, _ = simulated
    for _ in range(2):
        run(*SIMULATE, "--strategy", "bidkv", "--decision-log", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == log.read_bytes()


def test_a_log_tells_of_one_run(tmp_path: Path) -> None:
    result = RUNNER.invoke(
        app, [*SIMULATE, "--strategy", "lcf,bidkv", "--decision-log", str(tmp_path / "log")]
    )
    assert result.exit_code == 2
    assert "--decision-log: expected one --strategy" in result.stderr


def test_explain_agrees_with_the_runs_own_figures(simulated: tuple[Path, dict[str, Any]]) -> None:
    log, figures = simulated
    told = json.loads(run("explain", log, "--json").stdout)
    setbacks = [setback for story in told for setback in story["preemptions"]]
    assert len(told) == figures["preempted_requests"]
    assert len(setbacks) == figures["preemptions"] > 10
    assert max(len(story["preemptions"]) for story in told) == figures["max_preemptions_of_one_request"]
    assert sum(story["recomputed_tokens"] for story in told) == figures["recomputed_tokens"]
    for setback in setbacks:
        assert setback["by"] == "policy"
        assert setback["waited_s"] >= 0
        utility = setback["terms"]["freed_tokens"] / (setback["terms"]["disruption"] + 1e-3)
        assert setback["terms"]["utility"] == pytest.approx(utility, rel=1e-4)
    text = run("explain", log).stdout
    assert text.startswith(f"{len(setbacks):,} preemptions of {len(told):,} requests")


def test_explain_tells_one_requests_format_story(simulated: tuple[Path, dict[str, Any]]) -> None:
    log, _ = simulated
    decision = next(line for line in read_log(log) if isinstance(line, DecisionLine))
    preemption = next(line for line in read_log(log) if isinstance(line, Preemption))
    victim = decision.candidate(decision.victim)
    assert victim is not None
    text = " ".join(run("explain", log, "--request", decision.victim).stdout.split())
    assert text.startswith(f"{decision.victim} was preempted")
    assert "bidkv preempts the highest utility, tokens freed / (disruption + 0.001)" in text
    assert f"of {decision.candidates_total} candidates it chose this one" in text
    assert f"utility {victim.terms['utility']:g}" in text
    assert f"It lost {preemption.lost_tokens:,} computed tokens, waited" in text
    assert "were computed again" in text
    assert "In all:" in text


def test_explain_says_that_it_does_not_know_a_request(simulated: tuple[Path, dict[str, Any]]) -> None:
    result = RUNNER.invoke(app, ["explain", str(simulated[0]), "--request", "nobody"])
    assert result.exit_code == 2
    assert "does not know 'nobody'" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "0"], "--top: expected a number of at least 1, got 0"),
        (["--request", "r1", "--session", "s1"], "--request and --session: expected only one of them"),
    ],
)
def test_explain_refuses_options_that_make_no_sense(
    options: list[str], message: str, simulated: tuple[Path, dict[str, Any]]
) -> None:
    result = RUNNER.invoke(app, ["explain", str(simulated[0]), *options])
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_beginning_of_an_id_will_do_if_it_is_the_only_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(*SIMULATE, "--strategy", "bidkv", "--decision-log", log)
    log.write_text(log.read_text().replace('"r77"', '"cmpl-77-0-ab"'))
    assert run("explain", log, "--request", "cmpl-77").stdout.startswith("cmpl-77-0-ab was")
    result = RUNNER.invoke(app, ["explain", str(log), "--request", "r14"])
    assert result.exit_code == 0  # r14 itself, though r140 begins alike
    result = RUNNER.invoke(app, ["explain", str(log), "--request", "r"])
    assert result.exit_code == 2
    assert "149 requests begin with 'r': r0, r1, r10, r100, r101, ..." in " ".join(result.stderr.split())


def test_explain_names_the_engines_own_rule(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(*SIMULATE, "--strategy", "preempt-evict", "--decision-log", log)
    preemption = next(line for line in read_log(log) if isinstance(line, Preemption))
    assert "by the engine's own rule" in run("explain", log, "--request", preemption.request_id).stdout


def test_replay_of_the_logged_policy_agrees_with_it(simulated: tuple[Path, dict[str, Any]]) -> None:
    log, figures = simulated
    names = "bidkv,preempt-evict,lcf,slack_aware"
    document = json.loads(run("replay", log, "--strategy", names, "--json").stdout)
    logged, bidkv, own, lcf, _ = document["scores"]
    assert logged["name"] == "logged"
    assert logged["decisions"] == logged["same"] == figures["preemptions"]
    assert {**bidkv, "name": "logged"} == logged
    decisions = [line for line in read_log(log) if isinstance(line, DecisionLine)]
    assert own["same"] == sum(line.victim == line.own_choice for line in decisions)
    assert lcf["lost_tokens"] == sum(min(c.num_computed_tokens for c in d.candidates) for d in decisions)
    assert "lcf" in run("replay", log, "--strategy", names).stdout


@pytest.mark.parametrize(
    ("strategy", "says"),
    [("mc-sf", "true output lengths"), ("nobody", "does not exist"), (",", "found an empty one in")],
)
def test_replay_refuses_what_cannot_be_asked(
    simulated: tuple[Path, dict[str, Any]], strategy: str, says: str
) -> None:
    result = RUNNER.invoke(app, ["replay", str(simulated[0]), "--strategy", strategy])
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_timeline_shows_every_stay_and_every_preemption(
    simulated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    log, figures = simulated
    run("timeline", log, "--out", tmp_path / "t.json")
    document = json.loads((tmp_path / "t.json").read_text())
    events = document["traceEvents"]
    stays = [event for event in events if event["ph"] == "X"]
    assert len(stays) == figures["requests"] + figures["preemptions"]
    assert sum(e["ph"] == "i" and e["name"].startswith("preempt ") for e in events) == figures["preemptions"]
    assert sum(event["ph"] == "b" for event in events) == sum(event["ph"] == "e" for event in events)
    assert all(event["dur"] >= 0 for event in stays)
    # Slices of one row do not overlap, and there are no more rows than requests can run.
    assert {event["tid"] for event in stays} <= set(range(10, 42))
    # A row that is numbered as a process is taken for its main thread.
    assert not {event["tid"] for event in stays} & {event["pid"] for event in events}
    assert min(event["ts"] for event in events if event["ph"] != "M") >= 0
    for row in {event["tid"] for event in stays}:
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in stays if e["tid"] == row)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(type(moment) is int for span in spans for moment in span)
    blocks = [e["args"]["blocks"] for e in events if e["name"] == "KV blocks in use"]
    assert 0 <= min(blocks) < max(blocks) <= 299


def test_a_log_that_is_not_there_or_no_log(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    for command in (["explain"], ["replay", "--strategy", "lcf"], ["timeline", "--out", str(tmp_path / "t")]):
        for name, says in (("missing", "No such file"), ("text", "line 1: expected a JSON object")):
            result = RUNNER.invoke(app, [*command, str(tmp_path / name)])
            assert result.exit_code == 2, result.output
            assert says in result.stderr


@pytest.mark.parametrize(
    "words", [["explain"], ["replay", "--strategy", "fair"], ["timeline", "--out", "timeline.json"]]
)
def test_a_file_without_a_line_is_no_log(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    result = RUNNER.invoke(app, [words[0], "empty.jsonl", *words[1:]])
    assert result.exit_code == 2
    assert result.stderr == "bidkv: error: LOG: empty.jsonl: expected a decision log, found no line of one\n"
    assert not Path("timeline.json").exists()
