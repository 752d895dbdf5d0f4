"""One namespace of workloads: a name means the same requests in every command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bidkv.calibration.replay_plan import make_run_requests as replayed
from bidkv.cli.workload import WorkloadOptions, read_requests, read_workload
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.experiments.store import Store
from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import generate
from bidkv.workloads.families import FAMILIES
from bidkv.workloads.resolver import (
    known_session_workloads,
    known_workloads,
    make_requests,
    make_sessions,
    resolve_workload,
    stream_requests,
)
from bidkv.workloads.session_families import SESSION_FAMILIES


def in_every_command(name: str, folder: Path) -> list[list[WorkloadRequest]]:
    """The first requests of a workload at seed 1001 and a rate of 1, by every way into it."""
    options = WorkloadOptions(name, rate_rps=1.0, limit=20, seed=1001)
    plan = ExperimentPlan("vllm", ("preempt-evict",), (LoadPoint(name, 1.0),), 1, 20, 1001)
    (folder / "workloads").mkdir()
    store = Store(folder, plan, None)
    return [
        list(read_workload(options, 100_000, 16).requests),  # bidkv simulate
        list(read_requests(options)),  # bidkv plan
        store.requests(next(plan.groups())[0].group),  # bidkv experiment
        replayed({"workload": name, "n": 20, "rate_rps": 1.0, "seed": 1001}),  # replays on a GPU host
        make_requests(name, 20, 1.0, 1001),
    ]


@pytest.mark.parametrize("name", ["mixed", "reasoning", "family:mixed", "sharegpt", "azure-conv"])
def test_a_name_means_the_same_requests_in_every_command(tmp_path: Path, name: str) -> None:
    first, *others = in_every_command(name, tmp_path)
    assert len(first) == 20
    for other in others:
        assert [(r.prompt_tokens, r.output_tokens) for r in other] == [
            (r.prompt_tokens, r.output_tokens) for r in first
        ]


def test_a_shared_name_is_the_synthetic_workload_and_the_family_has_its_kind() -> None:
    assert make_requests("mixed", 5, 1.0, 1001) == list(generate("mixed", n=5, rate_rps=1.0, seed=1001))
    assert make_requests("synthetic:mixed", 5, 1.0, 1001) == make_requests("mixed", 5, 1.0, 1001)
    assert make_requests("family:mixed", 5, 1.0, 1001) == FAMILIES["mixed"](5, 1.0, 1001)
    (synthetic,) = make_requests("mixed", 1, 1.0, 1001)
    (family,) = make_requests("family:mixed", 1, 1.0, 1001)
    assert (synthetic.prompt_tokens, synthetic.output_tokens) == (163, 156)
    assert (family.prompt_tokens, family.output_tokens) == (127, 111)


def test_recorded_plans_name_families_by_a_field_of_their_own() -> None:
    recorded = {"family": "mixed", "n": 3, "rate_rps": 2.0, "seed": 1001}
    assert replayed(recorded) == FAMILIES["mixed"](3, 2.0, 1001)
    laws = {"family": "uniform", "n": 3, "rate_rps": None, "seed": 2, "params": {"prompt_high": 30}}
    made = replayed(laws)
    assert {r.arrival_s for r in made} == {0.0}
    assert max(r.prompt_tokens for r in made) <= 30


def test_every_known_name_resolves_to_itself() -> None:
    names = (*known_workloads(), *known_session_workloads())
    assert len(set(names)) == len(names)
    assert {"mixed", "family:mixed", "family:azure-conv", "sharegpt"} <= set(names)
    for name in names:
        found = resolve_workload(name)
        assert found.name == name.rpartition(":")[2]
        assert str(resolve_workload(str(found))) == str(found)
        assert found.has_sessions == (name in known_session_workloads())


def test_files_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"timestamp": 0, "input_length": 7, "output_length": 3}
    (tmp_path / "mixed").write_text(json.dumps(row))
    monkeypatch.chdir(tmp_path)
    assert resolve_workload("mixed").kind == "synthetic"
    assert [r.prompt_tokens for r in stream_requests("./mixed")] == [7]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mixd", "neither a file nor one of: .*family:mixed.*agents"),
        ("family:mixd", "expected a workload of kind 'family': azure-conv"),
        ("x\x00y", "neither a file nor one of"),
        ("agents", "expected a workload of single requests, found sessions: sessions:agents"),
        ("mixed", "the workload 'mixed' has no arrival times of its own: state a --rate"),
    ],
)
def test_mistakes_are_named(name: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        stream_requests(name)


def test_sessions_by_name() -> None:
    assert make_sessions("chat", 4, 3) == SESSION_FAMILIES["chat"](4, 3)
    assert len(make_sessions("agents", 4, 3)) == 4
    with pytest.raises(ValueError, match="expected a generated workload of sessions, found synthetic:mixed"):
        make_sessions("mixed", 4, 3)


def simulate(*arguments: str) -> tuple[int, str, str]:
    from bidkv.cli.app import app

    done = CliRunner().invoke(app, ["simulate", "--strategy", "preempt-evict", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_what_was_understood_of_a_file_is_printed_and_kept(tmp_path: Path) -> None:
    rows = [{"timestamp": k * 0.5, "input_length": 700, "output_length": 20} for k in range(40)]
    path = tmp_path / "seconds.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    code, _, errors = simulate("--trace", str(path))
    assert code == 2
    assert "--time-unit" in errors
    code, output, errors = simulate("--trace", str(path), "--time-unit", "s", "--json", "-")
    assert code == 0
    assert "mooncake, 40 requests, timestamps in s over 19.5 s, 2 a second" in errors
    config = json.loads(output)["config"]
    assert config["trace_options"] == {"time_unit": "s"}
    assert config["trace_report"]["requests"] == 40
    assert config["arrival_rate_rps"] == pytest.approx(2.0)


def test_a_file_of_sessions_is_simulated_in_closed_loop(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text(
        '{"session_id": "s", "timestamp": 0, "input_length": 900, "output_length": 80}\n'
        '{"session_id": "s", "delay": 5000, "input_length": 400, "output_length": 90}\n'
    )
    code, output, _ = simulate("--trace", str(path), "--enable-prefix-caching", "--json", "-")
    assert code == 0
    (run,) = json.loads(output)["runs"]
    assert run["sessions"]["turns"] == 2
    assert run["sessions"]["completion_s"]["mean"] > 5.0


def test_the_size_of_hash_chunks_reaches_the_engine(tmp_path: Path) -> None:
    """The second prompt repeats the first; with chunks of 64 tokens all but its last chunk is found."""
    lines = []
    for k in range(20):
        ids = [*range(30), 100 + k]
        lines.append(
            json.dumps(
                {"timestamp": 10_000 * k, "input_length": 64 * 30 + 10, "output_length": 2, "hash_ids": ids}
            )
        )
    path = tmp_path / "chunks.jsonl"
    path.write_text("\n".join(lines))
    code, output, _ = simulate("--trace", str(path), "--enable-prefix-caching", "--json", "-")
    assert code == 0
    (run,) = json.loads(output)["runs"]
    assert run["prefix_hit_rate"] == pytest.approx(19 * 64 * 30 / (20 * (64 * 30 + 10)), rel=0.01)
