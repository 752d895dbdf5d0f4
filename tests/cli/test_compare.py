"""Two results beside each other: ratios, intervals over seeds, exit codes, and files that do not match."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bidkv.cli.app import app


def summary(strategy: str = "lcf", **figures: Any) -> dict[str, Any]:
    latency = {"mean": 1.0, "p50": 1.0, "p90": 2.0, "p99": 4.0}
    return {
        "strategy": strategy,
        "throughput_rps": 5.0,
        "output_tokens_per_s": 500.0,
        "ttft_s": latency,
        "tpot_s": latency,
        "e2e_s": latency,
        "itl_s": {"p50": None, "p99": None},
        "longest_gap_s": None,
        "preemptions": 0,
        "recompute_tax": 0.0,
        "kv_utilization_mean": 0.5,
        "prefix_hit_rate": None,
        "lost_prefix_share": None,
        "sessions": None,
        **figures,
    }


def result(*runs: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {"config": {"trace": "t.jsonl", "seed": 0, "num_gpu_blocks": 600, **config}, "runs": list(runs)}


def compare(tmp_path: Path, a: Any, b: Any, *words: str) -> tuple[int, str, str]:
    for name, side in (("a", a), ("b", b)):
        if isinstance(side, list):
            (tmp_path / name).mkdir(exist_ok=True)
            for place, document in enumerate(side):
                (tmp_path / name / f"{place}.json").write_text(json.dumps(document))
        else:
            text = side if isinstance(side, str) else json.dumps(side)
            (tmp_path / name).write_text(text)
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), *words])
    return done.exit_code, done.stdout, done.stderr


def figures(document: dict[str, Any], strategy: str) -> dict[str, dict[str, Any]]:
    found = next(entry for entry in document["strategies"] if entry["strategy"] == strategy)
    return {change["figure"]: change for change in found["figures"]}


def test_two_runs_of_the_simulator_are_compared(tmp_path: Path) -> None:
    for name, blocks in (("a", "400"), ("b", "900")):
        words = ["simulate", "--limit", "60", "--strategy", "preempt-evict,lcf", "--num-gpu-blocks", blocks]
        done = CliRunner().invoke(app, [*words, "--json", str(tmp_path / name)])
        assert done.exit_code == 0
    written = json.loads((tmp_path / "b").read_text())["runs"][0]["ttft_s"]["mean"]
    words = [str(tmp_path / "a"), str(tmp_path / "b")]
    document = json.loads(CliRunner().invoke(app, ["compare", *words, "--json", "-"]).stdout)
    assert document["differences"]["num_gpu_blocks"] == {"a": 400, "b": 900}
    change = figures(document, "preempt-evict")["ttft_s.mean"]
    assert change["b"] == written
    assert change["ratio"] == pytest.approx(change["b"] / change["a"])
    assert change["better"] == "b"
    table = CliRunner().invoke(app, ["compare", *words, "--figures", "TTFT mean,preemptions"]).stdout
    assert "num_gpu_blocks: 400 in A, 900 in B" in table
    assert "mean time to first token" in table
    assert "end-to-end" not in table


def test_ratios_and_the_better_side(tmp_path: Path) -> None:
    slow = summary(throughput_rps=4.0, preemptions=3, kv_utilization_mean=0.9)
    code, out, _ = compare(tmp_path, result(summary()), result(slow), "--json", "-")
    assert code == 0
    found = figures(json.loads(out), "lcf")
    assert (found["throughput_rps"]["ratio"], found["throughput_rps"]["better"]) == (0.8, "a")
    assert (found["preemptions"]["ratio"], found["preemptions"]["better"]) == (None, "a")
    assert found["kv_utilization_mean"]["better"] is None
    assert found["ttft_s.mean"]["better"] is None
    assert "itl_s.p99" not in found


@pytest.mark.parametrize(
    ("share", "code"), [("0.1", 1), ("0.2", 0), ("0.25", 0)], ids=["above", "at", "below"]
)
def test_a_loss_above_the_share_is_an_exit_code(tmp_path: Path, share: str, code: int) -> None:
    slow = result(summary(throughput_rps=4.0))
    found, _, err = compare(tmp_path, result(summary()), slow, "--fail-if-worse", share)
    assert found == code
    assert ("worse: lcf: throughput in requests per second: 0.800" in err) is bool(code)
    assert compare(tmp_path, slow, result(summary()), "--fail-if-worse", share)[0] == 0


def test_seeds_give_intervals_and_doubt_is_no_loss(tmp_path: Path) -> None:
    ratios = (0.7, 0.75, 0.8, 0.72)
    a = [result(summary(), seed=seed) for seed in range(4)]
    b = [result(summary(throughput_rps=5.0 * r), seed=seed) for seed, r in enumerate(ratios)]
    code, out, _ = compare(tmp_path, a, b, "--json", "-", "--fail-if-worse", "0.1")
    assert code == 1
    document = json.loads(out)
    assert document["seeds"] == [0, 1, 2, 3]
    change = figures(document, "lcf")["throughput_rps"]
    assert change["ratio"] == pytest.approx(math.prod(ratios) ** 0.25)
    low, high = change["interval"]
    assert low < change["ratio"] < high < 1.0
    noisy = [result(summary(throughput_rps=5.0 * r), seed=s) for s, r in enumerate((0.5, 1.4, 0.6, 1.3))]
    code, out, _ = compare(tmp_path, a, noisy, "--json", "-", "--fail-if-worse", "0")
    assert code == 0
    assert figures(json.loads(out), "lcf")["throughput_rps"]["better"] is None


def test_the_only_strategies_of_both_sides_are_compared(tmp_path: Path) -> None:
    code, out, _ = compare(tmp_path, result(summary("lcf")), result(summary("fair")), "--json", "-")
    assert code == 0
    assert [entry["strategy"] for entry in json.loads(out)["strategies"]] == ["lcf -> fair"]
    code, out, _ = compare(tmp_path, result(summary("lcf"), summary("fair")), result(summary("fair")))
    assert code == 0
    assert "not compared, on one side only: lcf" in out


GOOD = result(summary())


@pytest.mark.parametrize(
    ("b", "words"),
    [
        ("{", "expected JSON"),
        ("[" * 9000, "expected JSON"),
        ("[]", "expected an object with config and runs"),
        ("{}", "field 'config': expected what a run of `bidkv simulate --json` was given"),
        ({"config": {"trace": "t"}, "runs": []}, "field 'runs': expected a list of at least one"),
        (result({"throughput_rps": 1}), "field 'runs[0].strategy': expected a name"),
        (result(summary(), summary()), "field 'runs[1].strategy': expected a name that no other run has"),
        (result(summary(throughput_rps="x")), "field 'runs[0].throughput_rps': expected a finite number"),
        (result(summary(throughput_rps=True)), "field 'runs[0].throughput_rps': expected a finite number"),
        (result(summary(ttft_s=3)), "field 'runs[0].ttft_s.mean': expected an object"),
        (result(summary(), trace="u.jsonl"), "field 'config.trace': expected the workload of"),
        (result(summary(), rate_rps=3.0), "field 'config.rate_rps': expected the workload of"),
        (result(summary(), watermark=math.inf), "field 'config': expected finite numbers"),
        (result(summary(), seed=7), "expected the seeds [0]"),
        (result(summary(), seed="x"), "field 'config.seed': expected a whole number"),
        (result(summary("fair"), summary("fast")), "expected a strategy of"),
        ([], "expected .json files of `bidkv simulate --json`, found none"),
        ([GOOD, GOOD], "expected another seed than"),
    ],
)
def test_files_that_do_not_match_are_refused(tmp_path: Path, b: Any, words: str) -> None:
    code, out, err = compare(tmp_path, GOOD, b)
    assert (code, out) == (2, "")
    assert err.startswith(f"bidkv: error: compare: {tmp_path / 'b'}")
    assert words in err
    assert err.count("\n") == 1


def test_ratios_beyond_all_numbers_are_numbers(tmp_path: Path) -> None:
    least, most = summary(throughput_rps=1e-299), summary(throughput_rps=1e299)
    code, out, _ = compare(tmp_path, result(least), result(most), "--json", "-")
    assert code == 0
    (found,) = json.loads(out)["strategies"]
    ratio = next(f["ratio"] for f in found["figures"] if f["figure"] == "throughput_rps")
    assert 1e300 < ratio < math.inf


def test_other_workloads_are_compared_when_asked(tmp_path: Path) -> None:
    other = result(summary(throughput_rps=6.0), trace="u.jsonl", seed=3)
    code, out, _ = compare(tmp_path, GOOD, other, "--any-workload", "--json", "-")
    assert code == 0
    assert figures(json.loads(out), "lcf")["throughput_rps"]["ratio"] == 1.2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--figures", "ttft"), "--figures: expected figures out of throughput_rps, "),
        (("--figures", "req/s,throughput_rps"), "expected each figure once"),
        (("--figures", ","), "found an empty one"),
        (("--fail-if-worse", "-1"), "--fail-if-worse: expected a share of at least 0"),
        (("--fail-if-worse", "nan"), "--fail-if-worse: expected a share of at least 0"),
        (("--picture", "x.pdf"), "--picture: expected a name that ends in .html, .svg or .png"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    code, out, err = compare(tmp_path, GOOD, GOOD, *words)
    assert (code, out) == (2, "")
    assert part in err


def test_the_picture_names_both_sides(tmp_path: Path) -> None:
    picture = tmp_path / "change.svg"
    better = result(summary(throughput_rps=7.0))
    code, out, _ = compare(tmp_path, GOOD, better, "--picture", str(picture))
    assert code == 0
    assert f"picture: {picture}" in out
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    assert "req/s" in drawn
    assert "b / a" in drawn
