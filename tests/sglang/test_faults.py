"""Everything goes wrong on a real server: no request is lost, no output changes, the memory stays whole.

Quick: 60 requests on the server that `test_engine.py` started. With `--campaign` 500 on one of its own, with
overlap, whose metrics port is taken. The last test ends the server.
"""

import json
import socket
import time
from collections import Counter

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from fault_client import LEAVES, requests, serve
from real_server import running

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(1500)]

INSIDE = {
    "policy raises",
    "policy garbage",
    "policy sleeps",
    "policy abstains",
    "policy shut-gate",
    "policy raises-on-events",
    "policy fair",
    "policy fast",
    "control file",
    "kill switch",
    "abort of a running request",
    "abort of a waiting request",
}
AFTERWARDS = 24
SETTLED_LIMIT_S = 60


@pytest.fixture(scope="module")
def server(request, campaign, tiny, tmp_path_factory):
    if not campaign:
        yield request.getfixturevalue("plain_server")
        return
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environment = {
            "BIDKV_METRICS_PORT": str(other.getsockname()[1]),
            "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
        }
        folder = tmp_path_factory.mktemp("faults") / "server"
        with running(folder, tiny, "fair", main="fault_main.py", environment=environment) as server:
            yield server


def settled(server, phase: str) -> dict:
    """What the scheduler reports of a phase once every request of it has left."""
    deadline = time.monotonic() + SETTLED_LIMIT_S
    while True:
        if server.faults_file.exists():
            report = json.loads(server.faults_file.read_text()).get(phase)
            if report and time.time() - server.faults_file.stat().st_mtime > 3.0:
                return report
        assert time.monotonic() < deadline, f"{phase} does not come to rest: {server.last_lines()}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def told(server, campaign):
    """Per phase: how the requests ended and what the scheduler reported; printed as figures."""
    asked = requests(500 if campaign else 60)
    found = {}
    for phase in ("alone", "undisturbed", "disturbed", "after"):
        batch = asked[:AFTERWARDS] if phase == "after" else asked
        ended = serve(server, phase, batch, disturbed=phase == "disturbed")
        found[phase] = (batch, ended, settled(server, phase))
    _, ended, report = found["disturbed"]
    # The scheduler's aborts are the clients' doing, and counted there.
    inside = {name: times for name, times in report["faults"].items() if not name.startswith("abort")}
    faults = Counter(inside) + Counter(ended.given_up.values())
    lost = len(asked) - len(ended.outputs) - len(ended.given_up) - len(ended.errors)
    steps = counted(found, "disturbed", "steps")
    print(
        f"\n{len(asked)} requests, {faults.total()} faults injected in {steps} steps ({dict(faults)}), "
        f"{counted(found, 'disturbed', 'failures')} failures of policies counted; "
        f"{len(ended.outputs)} completed, {len(ended.given_up)} given up by their clients, "
        f"{len(ended.errors)} refused by the engine, {lost} lost"
    )
    return found


def counted(told, phase: str, name: str) -> int:
    """How much a counter grew in a phase."""
    phases = list(told)
    before = told[phases[phases.index(phase) - 1]][2]["counters"][name] if phase != "alone" else 0
    return told[phase][2]["counters"][name] - before


@pytest.mark.parametrize("phase", ["alone", "undisturbed", "disturbed", "after"])
def test_every_request_ends_once(told, phase):
    asked, ended, _ = told[phase]
    ends = [*ended.outputs, *ended.errors, *ended.given_up]
    assert sorted(ends) == [request.number for request in asked]
    assert phase == "disturbed" or not ended.given_up


@pytest.mark.parametrize("phase", ["undisturbed", "disturbed", "after"])
def test_outputs_and_errors_are_those_of_the_engine_alone(told, phase):
    alone, ended = told["alone"][1], told[phase][1]
    assert ended.outputs == {number: alone.outputs[number] for number in ended.outputs}
    assert set(ended.errors) <= set(alone.errors)


def test_who_states_no_cap_or_a_huge_one_is_served_or_refused_in_the_engines_words(told):
    asked, alone, _ = told["alone"]
    kinds = {request.number: request.number % 50 for request in asked}
    assert {kinds[number] for number in alone.errors} == {25, 35, 45}
    words = {25: "Requested token count exceeds", 35: "exceeds the maximum allowed length", 45: "longer than"}
    for number, error in alone.errors.items():
        assert words[kinds[number]] in error
    lengths = {kinds[number]: len(tokens) for number, tokens in alone.outputs.items()}
    assert lengths[5] == 128  # SGLang's default
    assert lengths[15] > 40  # until the memory is full, with nobody beside it


def test_memory_is_short(server, told):
    records = [json.loads(line)["retracted"] for line in server.retractions_file.read_text().splitlines()]
    assert sum(rid.startswith("alone-") for retracted in records for rid in retracted) > 0


def test_every_fault_happened_and_was_counted(told):
    _, ended, report = told["disturbed"]
    assert set(report["faults"]) == INSIDE
    assert set(ended.given_up.values()) >= {*LEAVES[:2]}
    assert counted(told, "disturbed", "failures") >= 3
    assert counted(told, "disturbed", "kill_switch_activations") >= report["faults"]["kill switch"]
    assert counted(told, "undisturbed", "failures") == 0


@pytest.mark.parametrize("phase", ["alone", "undisturbed", "disturbed", "after"])
def test_the_memory_is_whole_and_the_books_are_even(told, phase):
    report = told[phase][2]
    assert (report["tokens_lost"], report["tokens_locked"], report["views_kept"]) == (0, 0, 0)
    assert counted(told, phase, "arrivals") == counted(told, phase, "completions") + counted(
        told, phase, "aborts"
    )
    assert report["adapter_in_place"]


def test_a_taken_port_and_a_full_disk_cost_metrics_and_log_but_no_request(told, campaign):
    report = told["disturbed"][2]
    assert report["metrics_served"] == (not campaign)
    before, after = report["log_bytes"]
    assert before < after <= before + 5_000
    assert report["log_is_whole"]


def test_no_prompt_and_no_output_was_written_down(server, told):
    asked, ended, _ = told["undisturbed"]
    written = server.decisions_file.read_text() + "".join(server.log)
    assert "undisturbed-00001" in written
    for request in asked:
        for tokens in (request.prompt, ended.outputs.get(request.number, [])):
            for separator in (",", ", ", " "):
                assert separator.join(map(str, tokens[:4])) not in written or len(tokens) < 4


def test_terminated_in_the_middle_of_a_decision_the_server_finishes_what_it_has(server, told):
    alone = told["alone"][1]
    asked = [request for request in requests(AFTERWARDS) if request.number in alone.outputs]
    ended = serve(server, "terminate", asked)
    assert ended.outputs == {request.number: alone.outputs[request.number] for request in asked}
    server.process.wait(120)
    with pytest.raises(OSError, match="refused"):
        server.flush_cache()
