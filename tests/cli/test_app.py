"""The top of the command line: version, help, and what it says without its extra."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv import __version__  # noqa: E402
from bidkv.cli import outputs  # noqa: E402
from bidkv.cli.app import COMMANDS, app  # noqa: E402

RUNNER = typer_testing.CliRunner()


def test_version() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"bidkv {__version__}\n")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    listed = RUNNER.invoke(app, ["--help"])
    own = RUNNER.invoke(app, [name, "--help"])
    assert listed.exit_code == own.exit_code == 0
    assert f"  {name} " in listed.stdout
    assert f"Usage: bidkv {name}" in own.stdout.replace("root", "bidkv")


def test_an_unknown_command_is_an_error() -> None:
    result = RUNNER.invoke(app, ["simulat"])
    assert result.exit_code == 2
    assert "simulat" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from bidkv.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'altair', 'vl_convert', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str, tmp_path: Path) -> None:
    # A module of that name that fails as an absent one does, found before the real one.
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError('absent', name={missing!r})\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bidkv.cli", "simulate", "--limit", "5"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert missing in line
    assert "[cli]" in line


@pytest.mark.parametrize(
    ("arguments", "package", "says"),
    [
        (["plan", "--picture", "p.html"], "altair", "--picture needs altair"),
        (["simulate", "--limit", "5", "--html", "p.html"], "jinja2", "--html needs jinja2"),
        (["tournament", "--png", "p.png", "--size", "T"], "vl_convert", "--png needs vl_convert"),
        (["tournament", "--size", "T"], "joblib", "tournament needs joblib"),
        (["report", "nowhere"], "scipy", "the verdict needs"),
        (["calibrate", "--steps", "steps.csv"], "numpy", "calibrate --steps needs numpy"),
    ],
)
def test_a_missing_extra_is_named_in_one_line_by_what_needs_it(
    arguments: list[str], package: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = outputs.find_spec
    monkeypatch.setattr(outputs, "find_spec", lambda name: None if name == package else found(name))
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert says in line
    assert "pip install 'bidkv[" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    lengths = ["--prompt-tokens", "10:20", "--output-tokens", "10:20"]
    arguments = ["plan", *lengths, "--rate", "1", "--json"]
    assert f"--json: made the folder {file.parent}" in RUNNER.invoke(app, [*arguments, str(file)]).stderr
    assert "made the folder" not in RUNNER.invoke(app, [*arguments, str(file)]).stderr


def test_a_refused_run_leaves_no_empty_file(tmp_path: Path) -> None:
    link, kept = tmp_path / "link.html", tmp_path / "kept.html"
    link.symlink_to(tmp_path / "nowhere.html")
    kept.write_text("mine")
    for file in (tmp_path / "page.html", link, kept):
        refused = ["simulate", "--strategy", "fair", "--html", str(file), "--trace", str(tmp_path / "none")]
        assert RUNNER.invoke(app, refused).exit_code == 2
    assert not (tmp_path / "page.html").exists()
    assert link.is_symlink()
    assert kept.read_text() == "mine"


def test_ctrl_c_ends_any_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "require_writable", stop)
    result = RUNNER.invoke(app, ["simulate", "--json", "out.json"])
    assert (result.exit_code, result.output) == (130, "bidkv: interrupted\n")
