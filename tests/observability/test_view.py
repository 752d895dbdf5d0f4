"""`bidkv top`: what it makes of metrics pages, and its manners on the command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("prometheus_client", reason="needs the [metrics] extra")
typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402
from bidkv.observability.samples import Samples, parse_samples  # noqa: E402
from bidkv.observability.view import rows  # noqa: E402

RUNNER = typer_testing.CliRunner()

PAGE = """\
bidkv_policy_active{{policy="fair"}} {active}
bidkv_killed {killed}
bidkv_total_blocks 200
bidkv_free_blocks 50
bidkv_floor_blocks 12
bidkv_running_requests 7
bidkv_waiting_requests 3
bidkv_completions_total {completions}
bidkv_preemptions_by_policy_total {preemptions}
bidkv_preemptions_by_engine_total 0
bidkv_scheduled_tokens_total 1000
bidkv_recomputed_tokens_total 50
bidkv_failures_total {failures}
queueing_rho 0.5
queueing_lambda 1
queueing_mu 2
queueing_is_stable 1
queueing_stability_margin_pct 40
# TYPE bidkv_decision_seconds histogram
bidkv_decision_seconds_bucket{{le="0.0001"}} 90
bidkv_decision_seconds_bucket{{le="0.001"}} 100
bidkv_decision_seconds_bucket{{le="+Inf"}} 100
bidkv_decision_seconds_count 100
bidkv_decision_seconds_sum 0.005
"""


def page(**values: int) -> str:
    defaults = {"active": 1, "killed": 0, "completions": 0, "preemptions": 0, "failures": 0}
    return PAGE.format(**defaults | values)


def view(now: Samples, before: Samples) -> dict[str, str]:
    return {name: value for name, value, _ in rows(now, before)}


def test_figures_and_rates() -> None:
    before, now = parse_samples([page()], 10.0), parse_samples([page(completions=6, preemptions=3)], 12.0)
    seen = view(now, before)
    assert seen["policy"] == "fair is in charge"
    assert seen["KV memory"].endswith("75% of 200 blocks")
    assert seen["floor"].startswith("12 blocks")
    assert seen["requests"] == "7 run, 3 wait; 3.00 finish a second"
    assert seen["load"] == "rho 0.50 = lambda 1.00/s / mu 2.00/s; stability margin +40 %"
    assert seen["preemptions"] == "1.50/s by the policy, 0.00/s by the engine's own rule"
    assert seen["recompute tax"].startswith("5.0% of all tokens")
    assert seen["decisions"] == "100 so far, 50 us each on average, p99 <= 1000 us"


SESSIONS = """
bidkv_turns_told_total {told}
bidkv_turns_found_total {found}
bidkv_sessions_idle 5
bidkv_sessions_resident 8
bidkv_sessions_waiting 2
bidkv_session_blocks_retained 120
bidkv_prompt_tokens_total {prompt}
bidkv_prefix_hit_tokens_total {hit}
bidkv_lost_prefix_tokens_total {lost}
bidkv_session_drops_total {drops}
bidkv_retention_price 0.25
bidkv_retention_index 0.125
bidkv_gate_shut 1
"""


def sessions_page(**values: int) -> str:
    defaults = {"told": 0, "found": 0, "prompt": 0, "hit": 0, "lost": 0, "drops": 0}
    return page() + SESSIONS.format(**defaults | values)


def test_sessions_and_a_thrashing_prefix_cache() -> None:
    before = parse_samples([sessions_page()], 0.0)
    now = parse_samples([sessions_page(told=7, found=2, prompt=1000, hit=300, lost=600, drops=4)], 2.0)
    seen = view(now, before)
    assert seen["sessions"] == (
        "8 resident (5 idle, 120 blocks), 2 turns wait; told by clients (7 told, 2 found)"
    )
    assert seen["prefix cache"] == "30% of prompt tokens hit, 60% cached once and lost"
    assert seen["retention"] == (
        "4 drops of idle sessions; price 0.25/s, lowest index 0.125/s; the gate is shut"
    )
    assert ("prefix cache", "bad") in [(name, mood) for name, _, mood in rows(now, before)]
    well = parse_samples([sessions_page(found=7, prompt=1000, hit=900, lost=10)], 2.0)
    assert "found by prefix" in view(well, before)["sessions"]
    assert ("prefix cache", "bad") not in [(name, mood) for name, _, mood in rows(well, before)]


def test_a_policy_whose_retention_cannot_be_carried_out_is_told_of() -> None:
    told = sessions_page(told=7)
    for unavailable in (0, 1):
        now = parse_samples([told + f"bidkv_retention_unavailable {unavailable}\n"], 0.0)
        (row,) = (row for row in rows(now, now) if row[0] == "sessions")
        assert ("cannot be told" in row[1]) == (row[2] == "bad") == bool(unavailable)


def test_without_sessions_nothing_is_said_of_them() -> None:
    quiet = parse_samples([sessions_page()], 0.0)
    assert not {"sessions", "prefix cache", "retention"} & set(view(quiet, quiet))


def test_a_policy_that_is_off_says_why() -> None:
    killed = parse_samples([page(active=0, killed=1)], 1.0)
    failed = parse_samples([page(active=0, failures=1)], 1.0)
    assert "kill switch" in view(killed, killed)["policy"]
    assert "it failed" in view(failed, failed)["policy"]
    assert ("failures", "1 fail-overs, kill switch thrown 0 times", "bad") not in rows(killed, killed)
    assert any(name == "failures" and mood == "bad" for name, _, mood in rows(failed, failed))


def test_a_counter_that_starts_anew_is_no_negative_rate() -> None:
    before, now = parse_samples([page(completions=50)], 0.0), parse_samples([page(completions=2)], 1.0)
    assert "0.00 finish a second" in view(now, before)["requests"]


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        (
            "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.5\n"
            "vllm:num_preemptions_total 4\n",
            "vLLM",
        ),
        ("sglang:num_running_reqs 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n", "SGLang"),
    ],
)
def test_an_engine_alone_is_shown_too(text: str, engine: str) -> None:
    before, now = parse_samples([text], 0.0), parse_samples([text], 1.0)
    seen = view(now, before)
    assert seen["engine"] == engine
    assert seen["requests"].startswith("2 run, 1 wait")
    assert seen["KV memory"].endswith("50%")


def test_pages_of_strangers_say_so() -> None:
    stranger = parse_samples(["go_threads 9\n"], 0.0)
    assert "nothing known" in view(stranger, stranger)[""]


@pytest.fixture
def address() -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page().encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_top_prints_once(address: str) -> None:
    result = RUNNER.invoke(app, ["top", address, "--once", "--interval", "0.1"])
    assert result.exit_code == 0, result.output
    assert "fair is in charge" in result.stdout
    assert f"http://{address}/metrics" in result.stdout


def test_top_says_that_nobody_answers() -> None:
    result = RUNNER.invoke(app, ["top", "127.0.0.1:9", "--once"])
    assert result.exit_code == 2
    assert "127.0.0.1:9" in result.stderr
