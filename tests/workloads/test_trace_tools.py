"""What a trace holds, converted, cut and anonymized traces, and generators fitted to them."""

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app
from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads import generate, generate_sessions
from bidkv.workloads.chunk_sizes import ChunkConverter
from bidkv.workloads.generator_fit import fit_requests, fit_sessions
from bidkv.workloads.resolver import make_requests, make_sessions
from bidkv.workloads.session_families import SESSION_FAMILIES
from bidkv.workloads.spread import Spread
from bidkv.workloads.trace_editing import Anonymizer, Content, cut_content
from bidkv.workloads.trace_summary import MOST_BINS, RateOverTime, summarize_requests, summarize_sessions
from bidkv.workloads.traces import read_sessions, read_trace, write_mooncake, write_sessions

DATA = Path(__file__).parents[1] / "data" / "traces"


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["trace", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_quantiles_of_a_stream_are_within_a_percent() -> None:
    chance = random.Random(1)
    values = [chance.lognormvariate(3.0, 1.5) for _ in range(20_000)]
    spread = Spread()
    for value in values:
        spread.add(value)
    ordered = sorted(values)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert spread.quantile(share) == pytest.approx(ordered[int(share * 19_999)], rel=0.011)
    assert spread.mean == pytest.approx(sum(values) / 20_000)
    assert spread.log_median == pytest.approx(math.exp(3.0), rel=0.05)
    assert spread.log_sigma == pytest.approx(1.5, rel=0.02)
    assert spread.distance_to_lognormal() < 0.02
    assert spread.quantile(1.0) == pytest.approx(ordered[-1], rel=0.011)


def test_few_whole_numbers_have_whole_quantiles() -> None:
    spread = Spread()
    for value in (0, 0, 3, 4, 10):
        spread.add(value)
    assert [spread.quantile(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0, 3, 4, 10]
    assert Spread().quantile(0.5) == 0.0


def test_the_rate_over_time_keeps_every_arrival_in_bounded_memory() -> None:
    rate = RateOverTime()
    times = [0.5, 0.7, 119.9, 120.5, 5000.0, 100_000.0]
    for time_s in times:
        rate.add(time_s)
    assert sum(rate.counts) == len(times)
    assert len(rate.counts) <= MOST_BINS
    assert rate.width_s == 1024.0
    assert rate.counts[:5] == [4, 0, 0, 0, 1]
    assert rate.draw()[0] == "█"


def test_a_summary_of_requests() -> None:
    requests = [
        WorkloadRequest("a", 1.0, 1000, 10, hash_ids=(1, 2)),
        WorkloadRequest("b", 3.0, 1100, 20, hash_ids=(1, 2, 3), priority=2, agent_id="x"),
        WorkloadRequest("c", 9.0, 900, 30, hash_ids=(4, 2), deadline_ms=5.0),
    ]
    summary = summarize_requests(requests)
    assert (summary.requests, summary.span_s, summary.rate_rps) == (3, 8.0, 0.25)
    assert summary.shared_tokens == 1024
    assert summary.gap_cv == pytest.approx(0.5)
    figures = summary.as_dict()
    assert figures["shared_prefix_share"] == 1024 / 3000
    assert figures["priorities"] == [0, 2]
    assert figures["with_deadline"] == 1
    assert any("34.1% of the prompt tokens" in line for line in summary.lines())


def test_poisson_arrivals_look_like_poisson_and_bursts_do_not() -> None:
    calm = summarize_requests(generate("mixed", n=5000, rate_rps=5.0, seed=1))
    bursty = summarize_requests(generate("mixed", n=5000, rate_rps=5.0, seed=1, cv=4.0))
    assert calm.gap_cv == pytest.approx(1.0, rel=0.06)
    assert calm.rate.dispersion == pytest.approx(1.0, abs=0.35)
    assert bursty.gap_cv == pytest.approx(4.0, rel=0.2)
    assert bursty.rate.dispersion is not None
    assert bursty.rate.dispersion > 4.0


def test_a_summary_of_sessions() -> None:
    ids = (7, 8)
    first = Turn(1024, 10, hash_ids=ids)
    sessions = [
        Session("a", (first, Turn(50, 5, 2.0, "tool"), Turn(30, 5, 60.0, "human", kept_tokens=512)), 0.0),
        Session("b", (first,), 4.0),
    ]
    summary = summarize_sessions(sessions)
    assert summary.prompt_tokens == 1024 + 1084 + 542 + 1024
    assert summary.past_tokens == 1034 + 512
    assert summary.shared_tokens == 1024
    assert summary.human_share == 0.5
    assert summary.rewrites == 1
    assert summary.as_dict()["starts_span_s"] == 4.0


def test_chunks_of_another_size_share_what_was_shared() -> None:
    up = ChunkConverter(64, 512)
    first = up.convert(range(16), 1024)
    assert up.convert([*range(8), *range(100, 108)], 1024)[0] == first[0]
    assert up.convert([*range(8), *range(100, 108)], 1024)[1] != first[1]
    # The same ids behind another chunk are another content.
    other = up.convert([*range(200, 208), *range(8, 16)], 1024)
    assert len({*first, *other}) == 4
    # 20 ids cover 1,280 of 2,000 tokens: the third chunk is covered in part and belongs to its prompt alone.
    partial = [up.convert(range(20), 2000)[2] for _ in range(2)]
    assert partial[0] != partial[1]
    assert up.convert(range(10), 600) == up.convert(range(10), 600)
    down = ChunkConverter(2048, 512)
    assert down.convert([5, 6], 4096)[:4] == down.convert([5, 9], 4096)[:4]
    assert len(down.convert([5, 6], 3000)) == 6
    with pytest.raises(ValueError, match="to be a multiple of the other, found 100 and 512"):
        ChunkConverter(100, 512)


def test_inspect_prints_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    code, output, _ = run("inspect", "azure-conv", "--picture", picture)
    assert code == 0
    assert "azure, 2,000 requests" in output
    assert "bursts    gaps between arrivals have a cv of" in output
    assert picture.read_text().startswith("<svg")
    assert picture.read_text().count("<g ") == 3
    code, output, _ = run("inspect", DATA / "aiperf.jsonl", "--json", "-", "--picture", picture)
    assert code == 0
    assert json.loads(output)["summary"]["turns"] == 5
    assert "turns per session" in picture.read_text()


@pytest.mark.parametrize("to", ["mooncake", "vidur", "azure", "mooncake-sessions"])
def test_requests_are_converted(tmp_path: Path, to: str) -> None:
    path = tmp_path / "out"
    code, _, errors = run("convert", "azure-conv", path, "--to", to)
    assert code == 0
    assert f"wrote 2,000 requests to {path} ({to})" in errors
    plain = [(round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens) for r in read_trace("azure-conv")]
    if to == "mooncake-sessions":
        sessions = read_sessions(path)
        assert [
            (round(s.start_s or 0.0, 6), s.turns[0].new_tokens, s.turns[0].output_tokens) for s in sessions
        ] == plain
    else:
        read = [(round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens) for r in read_trace(path)]
        assert read == plain


def test_sessions_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert run("convert", DATA / "tracelab.jsonl", path)[0] == 0
    assert read_sessions(path) == read_sessions(DATA / "tracelab.jsonl")
    code, _, errors = run("convert", DATA / "tracelab.jsonl", path, "--to", "mooncake")
    assert code == 2
    assert "expected single requests for the format 'mooncake', found sessions" in errors
    # Bailian's rows have times of their own, and ids of 16 tokens become ids of 512.
    assert run("convert", DATA / "bailian.jsonl", path, "--to", "mooncake", "--as-requests")[0] == 0
    requests = list(read_trace(path))
    assert [r.arrival_s for r in requests] == [1.5, 9.25, 10.0, 30.0, 40.0]
    assert all(len(r.hash_ids) == 1 for r in requests)
    code, _, errors = run("convert", DATA / "tracelab.jsonl", path, "--to", "json")
    assert code == 2
    assert "expected one of mooncake, vidur, azure" in errors


def test_a_window_is_cut_out_and_starts_at_zero(tmp_path: Path) -> None:
    source, path = tmp_path / "in", tmp_path / "out"
    write_mooncake([WorkloadRequest(f"r{k}", 10.0 + k, 5 + k, 3) for k in range(10)], source)
    code, _, _ = run("cut", source, path, "--from-s", 2, "--to-s", 6)
    assert code == 0
    assert [(r.arrival_s, r.prompt_tokens) for r in read_trace(path)] == [
        (0.0, 7),
        (1.0, 8),
        (2.0, 9),
        (3.0, 10),
    ]
    run("cut", source, path, "--limit", 2)
    assert [r.prompt_tokens for r in read_trace(path)] == [5, 6]
    code, _, errors = run("cut", source, path, "--from-s", 5, "--to-s", 5)
    assert code == 2
    assert "expected a window with 0 <= from < to, found 5 and 5 s" in errors
    code, _, errors = run("cut", source, path, "--from-s", 60, "--to-s", 120)
    assert code == 2
    assert "no request is left: the last one looked at arrives 9 s after the first" in errors
    code, _, errors = run("cut", DATA / "tracelab.jsonl", path, "--from-s", 1e6)
    assert code == 2
    assert "no session is left: the last one looked at arrives" in errors


def test_a_sample_keeps_about_its_share_and_depends_on_the_seed() -> None:
    sessions = [replace(s, start_s=float(k)) for k, s in enumerate(SESSION_FAMILIES["chat"](1000, 1))]
    one, again, other = (
        cut_content(Content(sessions=sessions), sample=0.3, seed=seed).sessions or () for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len(one) == pytest.approx(300, abs=60)


def test_anonymous_sessions_keep_lengths_gaps_and_sharing() -> None:
    sessions = [
        replace(s, start_s=100.0 + 0.7 * k, agent_id=f"team-{k % 3}")
        for k, s in enumerate(generate_sessions("agents", n=40, seed=3))
    ]
    hidden = Anonymizer(b"0" * 32, time_step_s=1.0).hide(Content(sessions=sessions)).sessions or ()
    assert [s.prompt_lengths() for s in hidden] == [s.prompt_lengths() for s in sessions]
    assert [[t.gap_s for t in s.turns] for s in hidden] == [[t.gap_s for t in s.turns] for s in sessions]
    assert [s.start_s for s in hidden] == [math.floor(0.7 * k + 1e-9) for k in range(40)]
    names = {s.session_id for s in sessions} | {s.agent_id for s in sessions}
    assert not names & ({s.session_id for s in hidden} | {s.agent_id for s in hidden})
    for (a, b), (c, d) in zip(
        itertools.combinations(sessions, 2), itertools.combinations(hidden, 2), strict=True
    ):
        assert (a.agent_id == b.agent_id) == (c.agent_id == d.agent_id)
        shared = [
            sum(1 for x, y in zip(p.turns[0].hash_ids, q.turns[0].hash_ids, strict=False) if x == y)
            for p, q in ((a, b), (c, d))
        ]
        assert shared[0] == shared[1]
    assert not {i for s in sessions for i in s.turns[0].hash_ids} & {
        i for s in hidden for i in s.turns[0].hash_ids
    }


def test_anonymize_takes_a_key_or_throws_one_away(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    outputs = []
    for place, extra in enumerate((("--key-file", key), ("--key-file", key), ())):
        path = tmp_path / f"out{place}"
        assert run("anonymize", "mooncake-conv", path, *extra)[0] == 0
        outputs.append(list(read_trace(path)))
    assert outputs[0] == outputs[1] != outputs[2]
    original = list(read_trace("mooncake-conv"))
    assert [r.prompt_tokens for r in outputs[2]] == [r.prompt_tokens for r in original]
    assert summarize_requests(outputs[2]).shared_tokens == summarize_requests(original).shared_tokens
    key.write_bytes(b"short")
    code, _, errors = run("anonymize", "mooncake-conv", tmp_path / "out", "--key-file", key)
    assert code == 2
    assert "expected a key of at least 16 bytes, found 5" in errors


def test_a_generator_fitted_to_its_own_traffic_is_found_again() -> None:
    params = {"turns_median": 9.0, "turns_sigma": 0.5, "first_median": 3000.0, "first_sigma": 0.4}
    params |= {"new_median": 300.0, "new_sigma": 0.8, "output_median": 150.0, "output_sigma": 0.7}
    params |= {
        "tool_gap_median_s": 2.0,
        "tool_gap_sigma": 0.9,
        "human_share": 0.2,
        "human_gap_median_s": 30.0,
    }
    params |= {"human_gap_sigma": 0.5, "groups": 1, "max_context_tokens": 1_000_000, "max_gap_s": 10_000.0}
    fit = fit_sessions(generate_sessions("agents", n=1500, seed=5, **params))
    assert fit.workload == "agents"
    assert fit.params["shared_tokens"] == 2560 + 1536
    for name in ("first_median", "new_median", "output_median", "tool_gap_median_s", "human_gap_median_s"):
        assert fit.params[name] == pytest.approx(params[name], rel=0.06), name
    for name in ("turns_sigma", "new_sigma", "output_sigma", "tool_gap_sigma", "human_share"):
        assert fit.params[name] == pytest.approx(params[name], rel=0.06), name
    assert fit.params["turns_median"] == pytest.approx(9.0, rel=0.06)
    assert max(fit.distances.values()) < 0.06
    again = make_sessions(fit.spec, 300, 1)
    assert summarize_sessions(again).contexts.mean > 0


def test_requests_are_fitted_and_the_command_repeats_them() -> None:
    made = generate("long_context", n=4000, rate_rps=2.0, seed=1, cv=2.0, max_total_tokens=1_000_000)
    fit = fit_requests(made)
    assert fit.params["prompt_median"] == pytest.approx(3000, rel=0.03)
    assert fit.params["output_sigma"] == pytest.approx(0.7, rel=0.05)
    assert fit.params["cv"] == pytest.approx(2.0, rel=0.1)
    assert fit.rate_rps == pytest.approx(2.0, rel=0.1)
    again = make_requests(fit.spec, 4000, fit.rate_rps or 1.0, 3)
    assert fit_requests(again).params["prompt_median"] == pytest.approx(3000, rel=0.05)


def test_the_fit_command_prints_a_command_that_runs() -> None:
    code, output, _ = run("fit", DATA / "aiperf.jsonl")
    assert code == 0
    spec = output.split("'")[1]
    assert spec.startswith("agents:turns_median=")
    simulated = CliRunner().invoke(
        app, ["simulate", "--workload", spec, "--sessions", "3", "--sessions-at-once", "--strategy", "lcf"]
    )
    assert simulated.exit_code == 0, simulated.stderr


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("agents:turns=3", "has no parameter 'turns'"),
        ("agents:turns_median=x", "expected parameters as NAME=NUMBER"),
        ("agents:turns_median=3;turns_median=4", "each once, found 'turns_median=4'"),
        ("family:mixed:chat_share=0.5", "expected parameters for a generator only"),
    ],
)
def test_parameters_in_names_are_checked(spec: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        make_sessions(spec, 2, 1)


def test_generated_workloads_are_no_traces(tmp_path: Path) -> None:
    code, _, errors = run("inspect", "agents")
    assert code == 2
    assert "expected a trace, found the generated workload sessions:agents" in errors
    write_sessions([Session("s", (Turn(5, 5),))], tmp_path / "one")
    code, _, errors = run("inspect", tmp_path / "one", "--as-requests")
    assert code == 2
    assert "expected single requests" in errors


@pytest.mark.parametrize("command", ["inspect", "fit"])
def test_a_report_that_cannot_be_written_is_named_before_the_trace_is_read(
    tmp_path: Path, command: str
) -> None:
    code, _, errors = run(command, tmp_path / "none.jsonl", "--json", tmp_path)
    assert code == 2
    assert f"--json: {tmp_path}: Is a directory" in errors
