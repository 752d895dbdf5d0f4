"""The real server on a CPU under memory pressure: outputs, victims, completeness, with and without overlap.

Three servers are started one after another (a failing scheduler kills its parent, so each in a process group
of its own); policies change on the running server by the control file.
"""

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from real_server import Server, running
from tiny_model import VOCABULARY

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(400)]


def _requests(phase: str) -> list[dict]:
    rng = random.Random(3)
    requests = []
    for number in range(14):
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(10, 50))]
        parameters = {"max_new_tokens": rng.randrange(15, 60), "temperature": 0.0, "ignore_eos": True}
        deadline_ms = rng.choice([None, 1e3, 20e3])
        if deadline_ms is not None:
            parameters["custom_params"] = {"bidkv_deadline_ms": deadline_ms}
        requests.append({"rid": f"{phase}-{number}", "prompt": prompt, "parameters": parameters})
    return requests


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _answers(server: Server, phase: str) -> tuple[list[list[int]], list[dict], list[dict]]:
    """Outputs, retractions and decision log of one phase; nothing may be aborted or cut short."""
    retractions, logged = len(_lines(server.retractions_file)), len(_lines(server.decisions_file))
    requests = _requests(phase)
    server.flush_cache()
    answers = server.generate(requests)
    assert [answer["meta_info"]["finish_reason"]["type"] for answer in answers] == ["length"] * len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert len(answer["output_ids"]) == request["parameters"]["max_new_tokens"]
    recorded = _lines(server.retractions_file)[retractions:]
    assert len(recorded) >= 4
    assert all(not record["aborted"] for record in recorded)
    return (
        [answer["output_ids"] for answer in answers],
        recorded,
        _lines(server.decisions_file)[logged:],
    )


def _named_and_gone(log: list[dict], policy: str) -> list[str]:
    """Victims in the order they went; each was the policy's next choice at that moment."""
    named: list[str] = []
    gone: list[str] = []
    asking = False
    for line in log:
        if line["kind"] == "decision":
            assert line["policy"] == policy
            # SGLang may need fewer than the policy named; the next shortage is decided anew.
            named = [*named, line["victim"]] if asking else [line["victim"]]
            asking = True
        elif line["kind"] == "preempt":
            assert (line["by"], line["request_id"]) == ("policy", named.pop(0))
            gone.append(line["request_id"])
            asking = False
    return gone


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny) -> list[list[int]]:
    """Outputs of the server without the plugin, and the proof that it retracts by its own rule."""
    with running(tmp_path_factory.mktemp("reference") / "server", tiny, None) as server:
        outputs, recorded, log = _answers(server, "reference")
    for record in recorded:
        assert record["retracted"] == record["upstream"][: len(record["retracted"])]
    assert log == []
    return outputs


def _policies_rule_and_off_restores(server: Server, policies: tuple[str, ...], reference: list) -> None:
    """Switch a running server, which starts with the first of `policies`, through all of them and off."""
    differed = 0
    for policy in policies:
        if policy != policies[0]:
            server.command(policy, f'bidkv_policy_active{{policy="{policy}"}} 1.0')
        outputs, recorded, log = _answers(server, policy)
        assert outputs == reference
        assert _named_and_gone(log, policy) == [rid for record in recorded for rid in record["retracted"]]
        for record in recorded:
            upstream = record["upstream"][: len(record["retracted"])]
            differed += record["retracted"] != upstream
            assert policy != "sglang-default" or record["retracted"] == upstream
    server.command("off", "bidkv_killed 1.0")
    outputs, recorded, log = _answers(server, "off")
    assert outputs == reference
    assert not any(line["kind"] == "decision" for line in log)
    assert {line["by"] for line in log if line["kind"] == "preempt"} == {"engine"}
    for record in recorded:
        assert record["retracted"] == record["upstream"][: len(record["retracted"])]
    metrics = server.metrics()
    assert differed >= 5
    assert "bidkv_hooks_in_place 1.0" in metrics
    assert "bidkv_failures_total 0.0" in metrics


def test_victims_are_the_policys_and_outputs_are_the_servers(tmp_path, tiny, reference):
    policies = ("bidkv", "largest-first", "slack-aware", "sglang-default")
    with running(tmp_path / "server", tiny, policies[0]) as server:
        _policies_rule_and_off_restores(server, policies, reference)


def test_so_it_is_without_overlap(plain_server, reference):
    _policies_rule_and_off_restores(plain_server, ("bidkv", "largest-first", "static-random"), reference)


def test_two_tensor_parallel_ranks_retract_the_same_requests(tmp_path, tiny, monkeypatch):
    """Each rank decides alone, by a policy that reads the clock; both obey the control file in one pass."""
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    with running(tmp_path / "server", tiny, "slack_aware", "--tp-size", "2") as server:
        _, recorded, log = _answers(server, "slack")
        named = _named_and_gone(log, "slack-aware")
        server.control_file.write_text("largest-first")  # an idle server hears of it with the next request
        _, recorded_later, log = _answers(server, "largest")
        named += _named_and_gone(log, "largest-first")
    gone = [rid for record in (*recorded, *recorded_later) for rid in record["retracted"]]
    # Both ranks write to the same file, whichever comes first; the log is the first rank's.
    assert sorted(gone) == sorted(2 * named)
    assert len(named) >= 8
