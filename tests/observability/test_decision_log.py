"""The decision log: what simulated runs leave in it, how it is bounded, and what a full disk does."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support import FakeEngine, FakeRequest, Scripted, requests_of, steady_profile

from bidkv.control import Controller
from bidkv.observability.decision_log import MOST_CANDIDATES, DecisionLog
from bidkv.observability.explain import stories
from bidkv.observability.log_lines import (
    Admission,
    DecisionLine,
    Finish,
    Line,
    PolicyChange,
    Preemption,
    Start,
)
from bidkv.observability.log_reader import LogError, read_log
from bidkv.observability.replay import replay
from bidkv.observability.rotating import RotatingFile
from bidkv.policy import available, resolve
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate

TIGHT = EngineConfig(num_gpu_blocks=30, max_num_seqs=8)
WORKLOAD = requests_of(*((40 + 7 * i % 50, 30 + 11 * i % 60) for i in range(40)))


def logged_run(path: Path, strategy: str, engine: EngineConfig = TIGHT, **options: Any) -> RunResult:
    log = DecisionLog(path)
    result = simulate(WORKLOAD, resolve(strategy), engine, steady_profile(0.5), observer=log, **options)
    log.close()
    return result


@pytest.mark.parametrize(
    "strategy", ["preempt-evict", "bidkv", "fair", "lcf", "static-random", "past-future"]
)
def test_the_log_tells_what_the_engine_counted(tmp_path: Path, strategy: str) -> None:
    result = logged_run(tmp_path / "log", strategy)
    lines = list(read_log(tmp_path / "log"))
    assert isinstance(lines[0], Start)
    assert isinstance(lines[1], PolicyChange)
    preemptions = [line for line in lines if isinstance(line, Preemption)]
    finishes = {line.request_id: line for line in lines if isinstance(line, Finish)}
    lives = [line for line in lines if isinstance(line, (Preemption, Finish))]
    assert len(preemptions) == result.totals.preemptions > 0
    assert sum(line.recomputed_tokens for line in lives) == result.totals.recomputed_tokens > 0
    assert sum(isinstance(line, Admission) for line in lines) == len(WORKLOAD) + len(preemptions)
    for record in result.records:
        finish = finishes[record.request_id]
        assert (finish.time_s, finish.preemptions) == (record.finish_s, record.preemptions)
        assert finish.output_tokens == record.output_tokens
    control = result.notes["control"]
    assert sum(line.by == "policy" for line in preemptions) == control["preemptions_by_policy"]
    decisions = [line for line in lines if isinstance(line, DecisionLine)]
    assert sum(line.victim is not None for line in decisions) == control["decisions"]
    assert sum(line.victim != line.own_choice for line in decisions) == control["overrides"]


@pytest.mark.parametrize("strategy", ["preempt-evict", "bidkv", "fair"])
def test_both_backends_write_the_same_log(tmp_path: Path, strategy: str) -> None:
    logged_run(tmp_path / "python", strategy, backend="python")
    logged_run(tmp_path / "compiled", strategy, backend="compiled")
    assert (tmp_path / "python").read_bytes() == (tmp_path / "compiled").read_bytes()


@pytest.mark.parametrize("strategy", available())
def test_a_log_changes_nothing(tmp_path: Path, strategy: str) -> None:
    without = simulate(WORKLOAD, resolve(strategy), TIGHT, steady_profile(0.5))
    assert logged_run(tmp_path / "log", strategy).records == without.records


def test_the_utility_of_the_victim_is_the_highest(tmp_path: Path) -> None:
    logged_run(tmp_path / "log", "bidkv")
    decisions = [line for line in read_log(tmp_path / "log") if isinstance(line, DecisionLine)]
    assert decisions
    for line in decisions:
        utilities = {c.request_id: c.terms["utility"] for c in line.candidates}
        assert line.complete
        assert utilities[str(line.victim)] == max(u for u in utilities.values() if u is not None)


def test_with_prefix_caching_what_came_back_is_told(tmp_path: Path) -> None:
    engine = EngineConfig(num_gpu_blocks=30, max_num_seqs=8, enable_prefix_caching=True)
    result = logged_run(tmp_path / "log", "lcf", engine)
    lives = [line for line in read_log(tmp_path / "log") if isinstance(line, (Preemption, Finish))]
    assert sum(line.recomputed_tokens for line in lives) == result.totals.recomputed_tokens


def test_of_too_many_candidates_the_victim_and_the_tail_are_shown(tmp_path: Path) -> None:
    engine = FakeEngine(running=[FakeRequest(f"r{i}") for i in range(200)], free_blocks=198)
    log = DecisionLog(tmp_path / "log")
    control = Controller(Scripted(victim=lambda candidates, need, _: candidates[0]), observer=log)
    assert [victim.request_id for victim in control.before_step(engine)] == ["r0"]
    (line,) = (line for line in read_log(tmp_path / "log") if isinstance(line, DecisionLine))
    shown = [candidate.request_id for candidate in line.candidates]
    assert line.candidates_total == 200
    assert not line.complete
    assert len(shown) <= MOST_CANDIDATES
    assert shown[0] == line.victim == "r0"
    assert shown[-1] == line.own_choice == "r199"


def test_who_decides_is_told_when_it_changes(tmp_path: Path) -> None:
    engine = FakeEngine(running=[FakeRequest("r0")])
    control = Controller(resolve("lcf"), observer=DecisionLog(tmp_path / "log"))
    request = FakeRequest("r1")
    for change in (lambda: None, control.disable, control.enable, lambda: control.switch(resolve("bidkv"))):
        change()
        control.on_arrival(request, engine)
        control.on_admit(request, engine)
    changes = [line for line in read_log(tmp_path / "log") if isinstance(line, PolicyChange)]
    assert [(c.policy, c.active, c.reason) for c in changes] == [
        ("lcf", True, ""),
        ("lcf", False, "kill switch"),
        ("lcf", True, ""),
        ("bidkv", True, ""),
    ]


def test_a_failed_policy_is_told_with_its_reason(tmp_path: Path) -> None:
    def fail(*_: object) -> object:
        raise RuntimeError("out of ideas")

    engine = FakeEngine(running=[FakeRequest("r0"), FakeRequest("r1")])
    control = Controller(Scripted(victim=fail), observer=DecisionLog(tmp_path / "log"))
    assert control.before_step(engine) == []
    control.on_preempt(engine.running[1], 32, engine)
    lines: list[Line] = list(read_log(tmp_path / "log"))
    (change,) = (line for line in lines if isinstance(line, PolicyChange))
    assert not change.active
    assert "out of ideas" in change.reason
    assert lines[-1].by == "engine"  # type: ignore[attr-defined]


# --- bounded, private, harmless ------------------------------------------------------------------
def write_lines(file: RotatingFile, count: int) -> None:
    for number in range(count):
        file.write(f'{{"n":{number}}}\n'.encode())


def test_files_are_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(path, max_bytes=100, older=2)
    write_lines(file, 100)
    file.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(p.stat().st_size < 120 for p in tmp_path.iterdir())
    kept = "".join((tmp_path / name).read_text() for name in ("log.2", "log.1", "log")).splitlines()
    numbers = [json.loads(line)["n"] for line in kept]
    assert numbers == list(range(numbers[0], 100))


def test_a_file_that_its_owner_removed_is_begun_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(path, max_bytes=100)
    write_lines(file, 3)
    path.unlink()
    write_lines(file, 12)
    file.close()
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
    assert path.read_text().splitlines()[-1] == '{"n":11}'


def test_every_file_of_a_series_starts_with_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = DecisionLog(path, file=RotatingFile(path, max_bytes=4000, older=50))
    simulate(WORKLOAD, resolve("bidkv"), TIGHT, steady_profile(0.5), observer=log)
    log.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 5
    for file in files:
        first = file.read_text().splitlines()[:2]
        assert [json.loads(line)["kind"] for line in first if line] == ["start", "policy"][: len(first)]
    logged_run(tmp_path / "whole", "bidkv")
    rotated = {name: story.lost_tokens for name, story in stories(read_log(path)).items()}
    whole = {name: story.lost_tokens for name, story in stories(read_log(tmp_path / "whole")).items()}
    assert rotated == whole


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    logged_run(tmp_path / "log", "lcf")
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_a_symbolic_link_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        logged_run(tmp_path / "log", "lcf")
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert sum("no decision log" in message for message in caplog.messages) == 1


def test_a_full_disk_ends_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, room = os.write, iter(range(10))

    def write(descriptor: int, data: bytes) -> int:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    log = DecisionLog(tmp_path / "log")
    with caplog.at_level(logging.WARNING):
        result = simulate(WORKLOAD, resolve("bidkv"), TIGHT, steady_profile(0.5), observer=log)
    monkeypatch.undo()
    assert len(result.completed) == len(WORKLOAD)
    assert sum("No space left" in message for message in caplog.messages) == 1
    assert len(list(read_log(tmp_path / "log"))) == 10


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RotatingFile(tmp_path / "log")
    file.write(b"whole\n")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with pytest.raises(OSError, match="No space left"):
        file.write(b"another\n")
    monkeypatch.undo()
    assert (tmp_path / "log").read_bytes() == b"whole\n"


def test_an_observer_that_raises_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            def fail(*_: object, **__: object) -> None:
                raise RuntimeError("broken")

            return fail

    control = Controller(resolve("lcf"), observer=Broken())  # type: ignore[arg-type]
    assert control.observer is None
    assert control.active
    assert "the observer failed" in caplog.text


# --- reading -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "expected a JSON object"),
        ("[1]", "field 'kind'"),
        ('{"kind":"preempt","time_s":1.0}', "field 'step' is missing"),
        (
            '{"kind":"preempt","time_s":"x","step":1,"free_blocks":0,"running":1,"waiting":0}',
            "field 'time_s': expected a finite number, got 'x'",
        ),
        ('{"kind":"decision","terms":[],"candidates":[["r0"]]}', "expected rows of 12 values"),
        ('{"kind":"decision","terms":[],"candidates":[[1,0,1,0,1,1,0,1,1,0,0,1]]}', "'request_id'"),
        ('{"kind":"decision","terms":[[1]],"candidates":[["r0"]]}', "'terms': expected texts, got [[1]]"),
        (
            '{"kind":"decision","terms":["u"],"candidates":[["r0",0,1,0,1,1,0,1,1,0,0,1,"x"]]}',
            "candidate's 'u': expected a finite number or null, got 'x'",
        ),
        (
            '{"kind":"decision","terms":[],"candidates":[["r0",0,1,0,-1,1,0,1,1,0,0,1]]}',
            "candidate's 'computed_tokens': expected at least 0, got -1",
        ),
        *(
            (f'{{"kind":"preempt","time_s":{number}}}', "field 'time_s': expected a finite number")
            for number in ("NaN", "-Infinity", "1e999", "1e308", "9" * 400)
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    logged_run(tmp_path / "log", "lcf")
    good = (tmp_path / "log").read_text().splitlines()[:3]
    (tmp_path / "log").write_text("\n".join([*good, line, ""]))
    with pytest.raises(LogError) as error:
        list(read_log(tmp_path / "log"))
    assert f"{tmp_path / 'log'}, line 4: " in str(error.value)
    assert says in str(error.value)


def test_another_schema_is_refused_and_an_unknown_kind_passed_over(tmp_path: Path) -> None:
    logged_run(tmp_path / "log", "lcf")
    lines = (tmp_path / "log").read_text().splitlines()
    start = json.loads(lines[0])
    (tmp_path / "log").write_text("\n".join([lines[0], '{"kind":"novelty"}', *lines[1:], '{"kind":']))
    assert len(list(read_log(tmp_path / "log"))) == len(lines)
    (tmp_path / "log").write_text(json.dumps({**start, "schema": 99}) + "\n")
    with pytest.raises(LogError, match="field 'schema': this version reads 1, got 99"):
        list(read_log(tmp_path / "log"))
    (tmp_path / "log").write_text(json.dumps({**start, "block_size": 0}) + "\n")
    with pytest.raises(LogError, match="field 'block_size': expected at least 1, got 0"):
        list(read_log(tmp_path / "log"))


def test_a_log_that_does_not_describe_its_engine_is_not_replayed(tmp_path: Path) -> None:
    logged_run(tmp_path / "log", "lcf")
    lines = (tmp_path / "log").read_text().splitlines(keepends=True)
    (tmp_path / "log").write_text("".join(lines[1:]))
    with pytest.raises(LogError, match="first line is of kind 'start'"):
        replay(read_log(tmp_path / "log"), [("fast", resolve("fast"))])
