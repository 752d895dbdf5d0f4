"""`bidkv plan`: its interface, its figures, and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402

STATED = ["plan", "--prompt-tokens", "10:800", "--output-tokens", "10:400", "--rate", "4"]
SMALL = ["--num-gpu-blocks", "600", "--max-num-seqs", "32"]


def run(*arguments: str) -> Any:
    return typer_testing.CliRunner().invoke(app, list(arguments))


def test_the_plan_of_a_trace_names_both_rates_and_the_limit() -> None:
    result = run("plan", "--limit", "500", *SMALL)
    assert result.exit_code == 0, result.output
    for words in (
        "one replica sustains",
        "published formula",
        "limited by           KV memory",
        "replicas  ",
    ):
        assert words in result.stdout


def test_json_holds_the_plan_and_the_checks() -> None:
    result = run(*STATED, *SMALL, "--slo-ttft-p99-ms", "800", "--simulate", "--json", "-")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["arrivals_rps"] == 4.0
    assert document["service"]["low_rps"] < document["service"]["sustainable_rps"]
    assert document["promised_rps"] <= document["service"]["sustainable_rps"]
    assert [check["share"] for check in document["checks"]] == [0.9, 1.0, 1.1]
    assert [check["is_growing"] for check in document["checks"]][::2] == [False, True]
    assert document["fleet"]["router"] == "round-robin"
    assert document["fleet"]["now"]["planned"]["replicas"] == document["replicas"]
    assert document["fleet"]["grown"]["planned"]["replicas"] == document["replicas_grown"]


def test_the_router_of_a_simulated_fleet_is_named() -> None:
    result = run(*STATED, *SMALL, "--simulate", "--router", "least-loaded")
    assert result.exit_code == 0, result.output
    assert "whole fleets behind a least-loaded router" in result.stdout
    assert "fewest at 2x" in result.stdout


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("altair", reason="needs the [report] extra")
    for name in ("plan.svg", "plan.html"):
        result = run(*STATED, *SMALL, "--picture", str(tmp_path / name))
        assert result.exit_code == 0, result.output
        assert "sustainable" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--prompt-tokens", "1:2", "--rate", "1"], "state both or neither"),
        (["plan", "--simulate", "--cached-prompt-share", "0.3"], "leave --cached-prompt-share out"),
        (
            ["plan", "--prompt-tokens", "1:2", "--output-tokens", "1:2"],
            "--rate: stated lengths have no arrivals",
        ),
        ([*STATED[:2], "1-2", *STATED[3:]], "--prompt-tokens: expected N or LOW:HIGH"),
        ([*STATED[:2], "9:2", *STATED[3:]], "--prompt-tokens: expected 1 <= LOW <= HIGH, got '9:2'"),
        ([*STATED, "--trace", "mooncake-conv"], "--trace and --prompt-tokens: expected only one of them"),
        (["plan", "--trace", "agents", "--session-rate", "0"], "session_rate must be > 0 and finite, got 0"),
        (["plan", "--trace", "agents", "--session-rate", "inf"], "session_rate must be > 0 and finite"),
        (["plan", "--trace", "nowhere.csv"], "--trace:"),
        (["plan", "--trace", "mixed"], "--rate: the workload 'mixed' has no arrival times"),
        ([*STATED, "--profile", "nothing"], "--profile:"),
        ([*STATED, "--growth", "-1"], "options: growth"),
        ([*STATED, "--num-gpu-blocks", "1"], "engine options: num_gpu_blocks"),
        ([*STATED, "--cached-prompt-share", "1"], "options: cached_prompt_share"),
        ([*STATED, "--slo-tpot-ms", "-5"], "--slo-tpot-ms: expected"),
        ([*STATED, "--picture", "plan.gif"], "--picture: expected a name that ends in"),
        (
            ["plan", *STATED[1:6], "4", "--num-gpu-blocks", "2", "--block-size", "1"],
            "no request of this law fits",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_a_target_that_no_number_of_replicas_keeps_has_an_exit_code_of_its_own() -> None:
    result = run(*STATED, *SMALL, "--slo-tpot-ms", "0.1")
    assert result.exit_code == 1
    assert "no number of replicas keeps the target" in result.stdout


def test_a_cache_too_small_for_most_requests_is_no_plan() -> None:
    result = run("plan", "--num-gpu-blocks", "3")
    assert result.exit_code == 2
    assert "of the requests exceed the 32 tokens that a server takes of one" in result.stderr


def test_requests_and_sessions_that_a_server_refuses_for_their_length_are_no_plan() -> None:
    result = run("plan", "--limit", "300", "--max-model-len", "100")
    assert result.exit_code == 2
    assert "--max-model-len: 9" in result.stderr
    assert "of the requests exceed the 100 tokens that a server takes of one" in result.stderr
    agents = ["plan", "--trace", "agents-20-turns", "--session-rate", "0.4", "--sessions", "40"]
    result = run(*agents, "--max-model-len", "100")
    assert result.exit_code == 2
    assert "a server refuses 40 of 40 sessions: their contexts exceed 100 tokens" in result.stderr
    some = run(*agents, "--max-model-len", "20000")
    assert some.exit_code == 0
    assert "--max-model-len: left out " in some.stderr
    assert some.stdout != run(*agents).stdout


def test_one_number_states_equal_lengths() -> None:
    one = run("plan", "--prompt-tokens", "400", "--output-tokens", "100", "--rate", "4", *SMALL)
    two = run("plan", "--prompt-tokens", "400:400", "--output-tokens", "100:100", "--rate", "4", *SMALL)
    assert one.exit_code == 0, one.output
    assert one.stdout == two.stdout
    assert one.stdout.startswith("replica: 600 KV blocks, 32 sequences, 2,048 tokens a step")


def test_more_blocks_than_the_gpu_holds_are_questioned() -> None:
    result = run(*STATED, "--num-gpu-blocks", "60000")
    assert result.exit_code == 0
    assert "about 27,949 blocks of 16 tokens fit beside the weights" in result.stderr


SIZED = ["plan", "--prompt-tokens", "400:800", "--output-tokens", "100:200", "--rate", "6", *SMALL]


def test_replicas_for_a_target_are_found_by_simulation_unless_the_closed_form_is_asked_for() -> None:
    target = ["--slo-ttft-p99-ms", "400"]
    found, closed = run(*SIZED, *target, "--json", "-"), run(*SIZED, *target, "--closed-form", "--json", "-")
    assert found.exit_code == closed.exit_code == 0, found.output + closed.output
    sized, alone = json.loads(found.stdout), json.loads(closed.stdout)
    assert sized["sizing"]["closed_form"] == alone["replicas"]
    assert sized["sizing"]["now"]["holds"] is True
    assert sized["sizing"]["now"]["ttft_p99_s"] <= 0.4
    assert sized["replicas"] == sized["sizing"]["now"]["replicas"]
    assert alone["sizing"] is None
    shared = run(*SIZED, *target, "--cached-prompt-share", "0.3")
    assert "are the closed form's: simulated prompts share nothing" in shared.stderr


def test_prefix_hits_are_taken_from_the_trace() -> None:
    words = ["plan", "--trace", "family:chat-shared-prefix", "--rate", "4", "--limit", "400"]
    without, cached = run(*words, "--json", "-"), run(*words, "--enable-prefix-caching", "--json", "-")
    assert without.exit_code == cached.exit_code == 0, without.output + cached.output
    assert "of the prompt tokens are found in the prefix cache" in cached.stderr
    assert "does not read" not in cached.stderr
    sustained = [json.loads(done.stdout)["service"]["sustainable_rps"] for done in (without, cached)]
    assert sustained[1] > 1.1 * sustained[0]
    both = run(*words, "--enable-prefix-caching", "--cached-prompt-share", "0.2")
    assert both.exit_code == 2
    assert "the trace says itself what it repeats" in both.stderr


SESSIONS = ["plan", "--trace", "agents-8-turns", "--sessions", "20", "--session-rate", "1"]


def test_a_target_for_sessions_is_kept_by_simulated_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    from bidkv.planning.session_target import SessionCheck

    found: list[SessionCheck | None] = [SessionCheck(0.5, 0.4, 0.02, 30.0, False, True), None, None, None]
    asked = []

    def largest(_: Any, order: str, engine: Any, *rest: Any, **__: Any) -> SessionCheck | None:
        asked.append((order, engine.enable_prefix_caching, rest[1].ttft_s))
        return found[len(asked) - 1]

    monkeypatch.setattr("bidkv.planning.session_plan.largest_rate", largest)
    kept = run(*SESSIONS, "--slo-ttft-p99-ms", "800")
    assert kept.exit_code == 0, kept.output
    assert "within the target, simulated" in kept.stdout
    assert asked == [("preempt-evict", True, 0.8), ("sessions", True, 0.8)]
    assert run(*SESSIONS, "--slo-ttft-p99-ms", "800").exit_code == 1
    closed = run(*SESSIONS, "--slo-tpot-ms", "50", "--closed-form")
    assert closed.exit_code == 2
    assert (
        "--closed-form: the replicas that keep a target for sessions are found by simulation" in closed.stderr
    )
