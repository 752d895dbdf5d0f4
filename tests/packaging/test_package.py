"""What is handed out: a wheel and a source archive that install clean from a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs the [dev] extra")

from bidkv import __version__

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, env=plain()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plain() -> dict[str, str]:
    """Our environment without what leads back into this checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "BIDKV_STRATEGY")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built as a release is."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", out, cwd=ROOT)
    return out


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return folder / f"bidkv-{__version__}-py3-none-any.whl"


def environment(place: Path) -> Path:
    """A fresh environment with nothing in it but pip; return its Python."""
    venv.create(place, with_pip=True)
    return place / "bin/python"


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    tracked = run("git", "ls-files", "src/bidkv", cwd=ROOT).split()
    inside = files_of(wheel)
    missing = {path.removeprefix("src/") for path in tracked if (ROOT / path).exists()} - set(inside)
    assert not missing
    strangers = [
        name for name in inside if not name.startswith(("bidkv/", f"bidkv-{__version__}.dist-info/"))
    ]
    assert not strangers
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in inside}


def test_a_wheel_built_from_the_source_archive_is_the_same(folder: Path, wheel: Path, tmp_path: Path) -> None:
    source = folder / f"bidkv-{__version__}.tar.gz"
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    run(
        *(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"),
        cwd=tmp_path / source.name.removesuffix(".tar.gz"),
    )
    assert files_of(tmp_path / "dist" / wheel.name) == files_of(wheel)


def test_the_bare_wheel_needs_nothing_and_says_what_the_commands_need(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel)
    probe = (
        "import json, bidkv\n"
        "from importlib.metadata import entry_points\n"
        "from bidkv.policy import available, resolve\n"
        "from bidkv.profiles import load_profile\n"
        "load_profile('h100-llama3.1-8b')\n"
        "groups = ('vllm.general_plugins', 'sglang.srt.plugins')\n"
        "loaded = [p.load().__module__ for g in groups for p in entry_points(group=g, name='bidkv')]\n"
        "print(json.dumps([bidkv.__version__, [resolve(n).name for n in available()], loaded]))\n"
    )
    version, policies, plugins = json.loads(run(python, "-c", probe, cwd=tmp_path))
    assert version == __version__
    assert {"fair", "bidkv", "lcf"} <= set(policies)
    assert plugins == ["bidkv.adapters.vllm.plugin", "bidkv.adapters.sglang.plugin"]
    done = subprocess.run(
        [tmp_path / "venv/bin/bidkv", "simulate"], capture_output=True, text=True, check=False, env=plain()
    )
    assert done.returncode == 2
    assert "[cli]" in done.stderr


def test_with_the_extras_the_commands_run_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cli,metrics]")
    command = tmp_path / "venv/bin/bidkv"
    assert run(command, "--version", cwd=tmp_path) == f"bidkv {__version__}\n"
    figures = json.loads(
        run(command, "simulate", "--limit", 40, "--strategy", "fair", "--json", "-", cwd=tmp_path)
    )
    assert figures["runs"][0]["completed"] == 40
    done = subprocess.run(
        [command],
        capture_output=True,
        text=True,
        check=True,
        env=plain() | {"_BIDKV_COMPLETE": "source_bash"},
    )
    assert "complete -o default -F _bidkv_completion bidkv" in done.stdout
