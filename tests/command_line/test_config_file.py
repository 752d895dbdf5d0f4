"""Options in a file: read with file, line and field in every error, beaten by the command line, written."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app
from bidkv.command_line.config_file import ConfigError, read_config
from bidkv.experiments.vllm.runner import main as experiment

SMALL = """\
num-gpu-blocks = 700   # for every command
[simulate]
strategy = ["preempt-evict", "lcf"]
max_num_seqs = 16
limit = 40
rate = 3
enable-prefix-caching = true
[experiment]
seed = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(SMALL)
    return path


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_a_file_states_options_and_the_command_line_wins(file: Path) -> None:
    code, out, err = run("simulate", "--config", str(file), "--max-num-seqs", "24", "--json", "-")
    assert code == 0
    config = json.loads(out)["config"]
    assert config["num_gpu_blocks"] == 700
    assert config["max_num_seqs"] == 24
    assert config["rate_rps"] == 3.0
    assert config["enable_prefix_caching"] is True
    assert config["strategies"] == ["preempt-evict", "lcf"]
    assert f"{file} states 6 options; the command line wins for --max-num-seqs" in err


def test_the_place_of_config_among_the_words_does_not_matter(file: Path) -> None:
    first = run("simulate", "--config", str(file), "--limit", "30", "--json", "-")
    last = run("simulate", "--limit", "30", "--json", "-", "--config", str(file))
    assert json.loads(first[1])["config"] == json.loads(last[1])["config"]


def test_what_a_run_writes_repeats_it(file: Path, tmp_path: Path) -> None:
    written = tmp_path / "written.toml"
    code, out, _ = run("simulate", "--config", str(file), "--json", "-", "--write-config", str(written))
    assert code == 0
    again, repeated, _ = run("simulate", "--config", str(written), "--json", "-")
    assert again == 0
    assert without_times(out) == without_times(repeated)
    stated = tomllib.loads(written.read_text())["simulate"]
    assert stated["num-gpu-blocks"] == 700
    assert not {"json", "config", "write-config"} & stated.keys()


def without_times(text: str) -> dict[str, object]:
    document = json.loads(text)
    for one in document["runs"]:
        del one["wall_s"]
    return document


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "limt = 4",
            "line 1, field 'limt': expected an option of simulate, found no such option (near: limit)",
        ),
        ("[simulate]\nlimit = 'x'", "line 2, field 'limit': expected a whole number, found 'x'"),
        ("[simulate]\n\nlimit = 4.5", "line 3, field 'limit': expected a whole number, found '4.5'"),
        ("limit = true", "line 1, field 'limit': expected a whole number, found 'True'"),
        ("stream = 1", "line 1, field 'stream': expected true or false, found '1'"),
        ("rate = '3'", "line 1, field 'rate': expected a number, found '3'"),
        ("engine = 'tgi'", "line 1, field 'engine': expected one of vllm, sglang, found 'tgi'"),
        ("trace = 2024-01-01", "line 1, field 'trace': expected text, found '2024-01-01'"),
        ("max-num-seqs = 4\nmax_num_seqs = 5", "line 2, field 'max_num_seqs': expected each option once"),
        ("[simulat]\nlimit = 3", "line 1, field 'simulat': expected a table out of simulate, plan"),
        ("limit =\n", "expected a TOML file: Invalid value (at line 1"),
        ("\ufeff\x00", "expected a TOML file"),
        ("config = 'x'", "field 'config': expected an option of simulate"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    code, out, err = run("simulate", "--config", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"bidkv: error: {path}")
    assert words in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    code, _, err = run("plan", "--config", str(tmp_path / "none.toml"))
    assert code == 2
    assert "none.toml: No such file or directory" in err


def test_a_folder_that_is_not_there_is_an_error_before_the_run(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "none" / "out.toml"
    code, out, err = run("simulate", "--config", str(file), "--write-config", str(target))
    assert (code, out) == (2, "")
    assert f"--write-config: {target}: No such file or directory" in err


def test_a_table_of_another_command_is_skipped_and_the_own_one_goes_before_the_top(file: Path) -> None:
    found = read_config(file, "experiment")
    assert {name: stated.value for name, stated in found.items()} == {"num-gpu-blocks": 700, "seed": 4}
    assert read_config(file, "simulate")["limit"].line == 5
    file.write_text("seed = 1\n[plan]\nseed = 2\n")
    assert read_config(file, "plan")["seed"].value == 2
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="expected a TOML file"):
        read_config(file, "plan")


def test_an_experiment_reads_and_writes_one_with_the_rates_of_single_workloads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, written = tmp_path / "e.toml", tmp_path / "written.toml"
    file.write_text(
        "[experiment]\nengine = 'sim'\nstrategies = ['preempt-evict', 'lcf']\nmixed-rates = [2.5]\nruns = 1\n"
        "requests = 12\njobs = 1\nnum-gpu-blocks-override = 600\n"
    )
    words = ["--config", str(file), "--output-dir", str(tmp_path / "a"), "--write-config", str(written)]
    assert experiment(words) == 0
    assert "e.toml states 7 options" in capfd.readouterr().err
    plan = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert [load["rate_rps"] for load in plan["loads"]] == [2.5]
    assert experiment(["--config", str(written), "--output-dir", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "manifest.json").read_text()) == plan
    words = ["experiment", "--config", str(file), "--requests", "0", "--output-dir", str(tmp_path / "c")]
    code, _, err = run(*words)
    assert code == 2
    assert "requests must be at least 1" in err
