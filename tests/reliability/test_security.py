"""The promises of SECURITY.md, tried."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import FakeClock, requests_of, steady_profile

import bidkv
from bidkv.control import Controller
from bidkv.control_file import ControlFile
from bidkv.experiments.plan import ExperimentPlan, LoadPoint
from bidkv.observability.decision_log import CANDIDATE_FIELDS, DecisionLog
from bidkv.observability.metrics import MetricsExporter
from bidkv.policy import resolve
from bidkv.simulator import EngineConfig, simulate

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(bidkv.__file__).parent.rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib.numpy_pickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp", "getoutput"}
CONFIG = EngineConfig(num_gpu_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=16)


def violations(source: str) -> list[str]:
    """What a module does that none may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            # re.compile and the like are methods of a module; the built-in is a bare name.
            if name in FORBIDDEN_CALLS and (
                isinstance(called, ast.Name) or name not in ("compile", "exec", "eval")
            ):
                found.append(f"line {node.lineno}: {name}()")
            if any(word.arg == "shell" and getattr(word.value, "value", True) for word in node.keywords):
                found.append(f"line {node.lineno}: shell=True")
        found += [f"import {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(Path(bidkv.__file__).parent)))
def test_no_module_unpickles_evaluates_or_goes_through_a_shell(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec('')",
        "os.system('ls')",
        "run('x', shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert violations(source)


# --- prompts and outputs -----------------------------------------------------------------------------
CONTENT = {
    "origin_input_ids", "origin_input_text", "output_ids", "fill_ids", "full_untruncated_fill_ids", "prompt",
    "prompt_text", "prompt_token_ids", "output_token_ids", "_output_token_ids", "all_token_ids",
    "_all_token_ids", "prompt_embeds", "decoded_text",
}  # fmt: skip
"""What requests of either engine call their prompts and outputs."""


def content_beyond_its_length(source: str) -> list[str]:
    """Where a module reads a request's content other than to ask how long it is."""
    tree = ast.parse(source)
    lengths = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"
        for argument in node.args
    }
    # The list itself may be kept under a name that is watched as well.
    kept = {
        id(end)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and node.value is not None
        for end in (node.target, node.value)
        if isinstance(node.target, ast.Attribute) and node.target.attr in CONTENT
    }
    return [
        f"line {node.lineno}: .{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in CONTENT and id(node) not in lengths | kept
    ]


READS_TOKENS = "adapters/sglang/prefix_cache.py"
"""SGLang's prefix tree knows no hashes of blocks: what of a request is cached is asked with its token ids."""

IN_ENGINES = [
    path
    for path in SOURCES
    if path.relative_to(Path(bidkv.__file__).parent).parts[0] in ("adapters", "observability", "policy")
    and path.relative_to(Path(bidkv.__file__).parent).as_posix() != READS_TOKENS
]


def test_the_one_module_that_reads_tokens_neither_logs_nor_writes() -> None:
    source = (Path(bidkv.__file__).parent / READS_TOKENS).read_text(encoding="utf-8")
    assert content_beyond_its_length(source)
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert not names & {"logger", "logging", "print", "open", "Path"}


@pytest.mark.parametrize("path", IN_ENGINES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_inside_an_engine_reads_more_of_a_prompt_or_an_output_than_its_length(path: Path) -> None:
    assert content_beyond_its_length(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("source", ["log(req.output_ids)", "len(r.prompt_token_ids[:9])", "f'{r.prompt}'"])
def test_the_search_for_content_finds_it(source: str) -> None:
    assert content_beyond_its_length(source)
    assert content_beyond_its_length("self.tokens: list[int] = req.output_ids")
    assert not content_beyond_its_length("self.output_ids: list[int] = req.output_ids; len(self.output_ids)")


# --- dependencies ------------------------------------------------------------------------------------
def test_every_dependency_was_reviewed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("dependencies", []) == []
    review = (ROOT / "SECURITY.md").read_text().partition("## Dependencies")[2]
    extras = project["optional-dependencies"]
    needed = {
        re.split(r"[>=<\[ ]", requirement)[0]
        for extra in ("sim", "cli", "report", "metrics", "experiments", "cluster", "vllm", "sglang")
        for requirement in extras[extra]
    } - {"bidkv"}
    assert {name for name in needed if not re.search(rf"\b{name} \d+\.\d+", review)} == set()


# --- metrics -----------------------------------------------------------------------------------------
def test_metrics_listen_on_the_loopback_address_alone() -> None:
    exporter = MetricsExporter(Controller(resolve("fair")), 0)
    try:
        assert exporter.serving
        assert exporter._server is not None
        assert exporter._server[0].server_address[0] == "127.0.0.1"
    finally:
        exporter.close()


def test_a_port_that_is_taken_costs_the_metrics_alone() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        exporter = MetricsExporter(Controller(resolve("fair")), other.getsockname()[1])
        assert not exporter.serving
        exporter.close()


# --- the decision log --------------------------------------------------------------------------------
def written(path: Path) -> None:
    log = DecisionLog(path)
    requests = requests_of((5, 9), (14, 13), (14, 9))
    simulate(requests, resolve("lcf"), CONFIG, steady_profile(), backend="python", observer=log)
    log.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_log_is_its_owners_whatever_the_umask_and_whatever_was_there(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written(tmp_path / "new")
        (tmp_path / "old").touch(mode=0o666)
        written(tmp_path / "old")
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "new"), mode_of(tmp_path / "old")) == (0o600, 0o600)
    assert (tmp_path / "old").stat().st_size > 0


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "pipe", "folder"])
def test_what_is_no_file_in_the_logs_place_is_refused_and_nothing_hangs(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "log", tmp_path / "target"
    if kind == "symlink":
        target.write_text("precious")
        path.symlink_to(target)
    elif kind == "dangling symlink":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    written(path)
    if kind == "symlink":
        assert target.read_text() == "precious"
    else:
        assert not target.exists()


def test_the_log_knows_figures_and_names_but_no_content(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path)
    numbers = {name for name in CANDIDATE_FIELDS if name != "request_id"}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert any(line["kind"] == "decision" for line in lines)
    for line in lines:
        for row in line.get("candidates", []):
            values = dict(zip(CANDIDATE_FIELDS, row, strict=False))
            assert all(isinstance(values[name], int | float | None) for name in numbers)


# --- the control file --------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_control_file_that_others_may_write_commands_nothing(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "control"
    path.write_text("off")
    path.chmod(mode)
    assert ControlFile(path, clock=FakeClock()).poll() is None
    path.chmod(0o600)
    assert ControlFile(path, clock=FakeClock()).poll() == "off"


def test_a_link_or_a_pipe_commands_nothing(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("off")
    real.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(real)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert ControlFile(link, clock=FakeClock()).poll() is None
    assert ControlFile(pipe, clock=FakeClock()).poll() is None


# --- names that become paths -------------------------------------------------------------------------
names = st.text(min_size=1, max_size=300) | st.sampled_from(
    ["..", ".", "../../etc/passwd", "/etc/passwd", "a\x00b"]
)


@given(workload=names, strategy=names)
def test_no_name_in_an_experiment_leaves_its_folder(workload: str, strategy: str) -> None:
    plan = ExperimentPlan("sim", (strategy, strategy + "#2"), (LoadPoint(workload, 1.0),), 1, 1, 0, {})
    for cell in plan.cells():
        for name in (cell.cell_id, cell.group.group_id):
            assert name == Path(name).name
            assert name not in (".", "..")
            assert name.isascii()
            assert len(name) < 250
