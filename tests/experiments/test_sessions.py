"""Sessions on a server: every turn after the answer before it, the answer in its prompt, told or untold."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the [experiments] extra")
pytest.importorskip("scipy", reason="needs the [experiments] extra")

from bidkv.experiments.analysis import SESSION_VERDICTS, analyze_store
from bidkv.experiments.driver import EngineFacts
from bidkv.experiments.execute import run_experiment
from bidkv.experiments.load_generator import main
from bidkv.experiments.managed_server import ServerSpec
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.experiments.server_driver import LoadSettings, ServerDriver
from bidkv.experiments.session_bodies import Answer, TokenConversations
from bidkv.experiments.session_load import SessionLoad, read_session_load, write_session_load
from bidkv.experiments.session_samples import SessionSamples, read_session_samples
from bidkv.experiments.simulated_driver import SimDriver, SimEngine
from bidkv.experiments.store import Store
from bidkv.experiments.vllm.runner import main as runner
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, SessionSource
from bidkv.workloads.traces import TraceError

FAKE_SERVER = Path(__file__).with_name("fake_server.py")


def sessions(count: int, *, gap_s: float = 0.01) -> list[Session]:
    draw = Random(3)
    return [
        Session(
            f"s{number}",
            tuple(
                Turn(
                    draw.randint(20, 60),
                    draw.randint(1, 9),
                    gap_s=gap_s if turn else 0.0,
                    hash_ids=() if turn else (7,),
                    kept_tokens=10 if turn == 3 else None,
                )
                for turn in range(draw.randint(1, 5))
            ),
            chunk_tokens=16,
        )
        for number in range(count)
    ]


def load(count: int = 30, **changes: Any) -> SessionLoad:
    arrivals = SessionArrivals.at_concurrency(5, stagger_s=0.005)
    return replace(SessionLoad(sessions(count), arrivals), **changes)


def apply(folder: Path, url: str, given: SessionLoad) -> SessionSamples:
    write_session_load(given, folder / "load.jsonl")
    words = ["--url", url, "--dialect", "vllm", "--model", "fake", "--vocabulary", "900", "--sessions"]
    words += ["--workload", str(folder / "load.jsonl"), "--output", str(folder / "samples.jsonl")]
    try:
        assert main(words) == 0
    finally:
        # The generator is a process of its own and switches garbage collection off.
        gc.enable()
        gc.unfreeze()
    return read_session_samples(folder / "samples.jsonl")


def received(folder: Path) -> dict[str, dict[str, Any]]:
    return {seen["id"]: seen for seen in map(json.loads, (folder / "seen").read_text().splitlines())}


def test_a_load_comes_back_equal(tmp_path: Path) -> None:
    given = load(duration_s=3.5, told=False, endpoint="chat")
    write_session_load(given, tmp_path / "load")
    assert read_session_load(tmp_path / "load") == given
    for broken in ("", "{}", '{"arrivals": 3}', "[1]"):
        (tmp_path / "load").write_text(broken)
        with pytest.raises(ValueError, match="expected a load of sessions"):
            read_session_load(tmp_path / "load")


def test_turns_follow_answers_and_repeat_them(fake_server: Callable[..., str], tmp_path: Path) -> None:
    given = load()
    samples = apply(tmp_path, fake_server(log=tmp_path / "seen"), given)
    seen = received(tmp_path)
    turns = {turn.request_id: turn for turn in samples.turns}
    assert len(turns) == len(seen) == sum(len(session.turns) for session in given.sessions)
    assert samples.report.completed == len(turns)
    first_chunks = set()
    for session in given.sessions:
        names = [f"{session.session_id}#{number}" for number in range(len(session.turns))]
        assert [len(seen[name]["body"]["prompt"]) for name in names] == session.prompt_lengths()
        first_chunks.add(tuple(seen[names[0]]["body"]["prompt"][:16]))
        for number, (before, after) in enumerate(pairwise(names), 1):
            past = seen[before]["body"]["prompt"] + seen[before]["answer"]
            kept = session.turns[number].kept_tokens
            past = past if kept is None else past[:kept]
            assert seen[after]["body"]["prompt"][: len(past)] == past
            assert turns[after].intended_s == pytest.approx(turns[before].last_token_s + 0.01)
            assert turns[after].sent_s >= turns[after].intended_s
        extras = [seen[name]["body"]["vllm_xargs"] for name in names]
        assert {extra["bidkv_session_id"] for extra in extras} == {session.session_id}
        assert [extra.get("bidkv_session_end") for extra in extras] == [None] * (len(names) - 1) + [1]
    assert len(first_chunks) == 1, "sessions share the content that they share"
    starts = sorted(turn.intended_s for turn in samples.turns if turn.turn == 0)
    assert starts[:5] == pytest.approx([0.005 * n for n in range(5)])
    assert all(turn.cached_tokens == 16 for turn in samples.turns)


def test_untold_sessions_are_not_named(fake_server: Callable[..., str], tmp_path: Path) -> None:
    apply(tmp_path, fake_server(log=tmp_path / "seen"), load(5, told=False))
    assert all(
        not any("session" in name for name in seen["body"]["vllm_xargs"])
        for seen in received(tmp_path).values()
    )


def test_chats_send_the_answers_as_messages(fake_server: Callable[..., str], tmp_path: Path) -> None:
    given = load(6, endpoint="chat")
    samples = apply(tmp_path, fake_server(log=tmp_path / "seen"), given)
    assert samples.report.completed == sum(len(session.turns) for session in given.sessions)
    seen = received(tmp_path)
    for session in given.sessions:
        for number, turn in enumerate(session.turns):
            messages = seen[f"{session.session_id}#{number}"]["body"]["messages"]
            assert messages[-1]["role"] == "user"
            if turn.kept_tokens is None and number in (1, 2):
                roles = [message["role"] for message in messages]
                assert roles == ["user", "assistant"] * number + ["user"]
                answer = seen[f"{session.session_id}#{number - 1}"]["answer"]
                assert messages[-2]["content"] == "".join(f" a{token}" for token in answer)
                assert len(messages[-1]["content"].split()) == turn.new_tokens


def test_a_failed_turn_ends_its_session_alone(fake_server: Callable[..., str], tmp_path: Path) -> None:
    given = load()
    faulty = next(s for s in given.sessions if len(s.turns) > 2)
    url = fake_server(fault="http", faulty=f"{faulty.session_id}#1")
    samples = apply(tmp_path, url, given)
    failed = [turn for turn in samples.turns if turn.error]
    assert [turn.request_id for turn in failed] == [f"{faulty.session_id}#1"]
    assert "HTTP 503" in failed[0].error
    names = {turn.request_id for turn in samples.turns}
    assert f"{faulty.session_id}#2" not in names
    assert {f"{s.session_id}#{len(s.turns) - 1}" for s in given.sessions if s is not faulty} <= names


def test_a_run_is_cut(fake_server: Callable[..., str], tmp_path: Path) -> None:
    given = load(30, duration_s=0.4, sessions=sessions(30, gap_s=0.05))
    samples = apply(tmp_path, fake_server(token_s=0.01), given)
    assert samples.cut_s == pytest.approx(0.4, abs=0.01)
    assert 0 < len(samples.turns) < sum(len(session.turns) for session in given.sessions)
    assert all(turn.done_s is not None for turn in samples.turns)


@pytest.mark.parametrize("incremental", [True, False])
def test_sglang_tells_all_ids_or_the_new_ones(incremental: bool) -> None:
    conversations = TokenConversations("sglang", "m", 900, "salt", told=True)
    answer, ids = Answer(), [5, 6, 7, 8]
    for count in (1, 3, 4):
        sent = ids[{1: 0, 3: 1, 4: 3}[count] : count] if incremental else ids[:count]
        event = {"output_ids": sent, "meta_info": {"completion_tokens": count, "cached_tokens": 32}}
        conversations.take_event(event, answer)
    assert (answer.token_ids, answer.tokens, answer.cached_tokens) == (ids, 4, 32)
    source = SessionSource(sessions(1), SessionArrivals.at_once())
    body = json.loads(conversations.write_body(source.take().request))
    assert body["sampling_params"]["custom_params"]["bidkv_session_id"] == "s0"


# --- experiments -----------------------------------------------------------------------------------
def plan(engine: str, strategies: Sequence[str], **options: Any) -> ExperimentPlan:
    options = {"duration_s": None, "session_stagger_s": 0.1, **options}
    loads = (LoadPoint("agents-8-turns", 0.0, 12), LoadPoint("agents-8-turns", 0.2))
    return ExperimentPlan(engine, tuple(strategies), loads, 2, 20, 1001, options)


def test_a_simulated_experiment_is_judged_by_session_figures(tmp_path: Path) -> None:
    given = plan("sim", ("preempt-evict", "preempt-evict#2"))
    assert ExperimentPlan.from_dict(json.loads(json.dumps(given.as_dict()))) == given
    config = EngineConfig(num_gpu_blocks=6000, max_num_seqs=64, max_num_batched_tokens=2048)
    store = Store.create(tmp_path, given)
    with SimDriver(SimEngine(config, "h100-llama3.1-8b-traffic")) as driver:
        run_experiment(store, driver, lambda line: None)
    analysis = analyze_store(store)
    assert analysis.figures == SESSION_VERDICTS
    # The same policy twice on the identical sessions: every pair is equal.
    assert all(cell.effect is not None and cell.effect.estimate == 0.0 for cell in analysis.cells)
    by_load = {run.cell.group.load: run.result.summary()["sessions"] for run in store.runs()}
    assert all(figures["completed"] > 10 for figures in by_load.values())
    assert str(given.loads[0]) == "agents-8-turns with 12 sessions"
    kept = next((tmp_path / "workloads").glob("*.sessions.json"))
    kept.write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(TraceError, match="fingerprint another"):
        [store.sessions(cells[0].group) for cells in given.groups()]


def test_an_experiment_on_a_server_has_session_figures(tmp_path: Path) -> None:
    given = replace(plan("vllm", ("preempt-evict", "lcf"), duration_s=1.0), runs=1, requests=30)
    store = Store.create(tmp_path, replace(given, loads=given.loads[:1]))
    spec = ServerSpec(
        engine="vllm",
        command=[sys.executable, str(FAKE_SERVER)],
        dialect="vllm",
        model="fake",
        vocabulary=900,
        facts=lambda url, reading: EngineFacts(reading.count("total_blocks") * 100, 16),
        environment={},
    )
    with ServerDriver(spec, store.logs, LoadSettings(2, 5.0, 60_000.0), lambda line: None) as driver:
        tally = run_experiment(store, driver, lambda line: None)
    assert not tally.failed
    for run in store.runs():
        summary = run.result.summary()
        assert summary["sessions"]["turns"] == len(run.result.completed) > 0
        assert summary["prefix_hit_rate"] > 0.0
        assert run.result.notes["cut_s"] == pytest.approx(1.0, abs=0.05)


def test_the_command_line_asks_for_what_sessions_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--engine", "sim", "--strategies", "preempt-evict", "--workload", "agents-8-turns"]
    words += ["--output-dir", str(tmp_path / "out"), "--requests", "8", "--runs", "1", "--jobs", "1"]
    for options, message in (
        ([], "state --concurrent-sessions"),
        (["--concurrent-sessions", "0"], "expected whole numbers"),
        (["--concurrent-sessions", "4", "--duration-s", "0"], "expected seconds above 0"),
        (["--concurrent-sessions", "4", "--endpoint", "smoke"], "expected completions or chat"),
    ):
        assert runner([*words, *options]) == 2
        assert message in capsys.readouterr().err
    assert runner([*words, "--concurrent-sessions", "4", "--duration-s", "60"]) == 0
    assert "turns/s" in capsys.readouterr().err
