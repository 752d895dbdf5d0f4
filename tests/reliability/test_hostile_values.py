"""What operators and clients can send a running engine: nothing of it may stop the engine."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import FakeClock, Scripted

from bidkv.adapters.client_values import LONGEST_NAME, agent_name, positive_number
from bidkv.adapters.environment import METRICS_PORT, read_environment
from bidkv.adapters.vllm.request_view import VllmRequest
from bidkv.control import Controller
from bidkv.control_file import LONGEST_COMMAND_BYTES, ControlFile, obey
from bidkv.policy import PolicySpecError, register, resolve
from bidkv.policy import catalog as policies
from bidkv.protocol.policy import Policy


@pytest.mark.parametrize(
    "command", ["fair:cap=0", "fast:cap=-3", "nobody", "fair:cap", "fair:gain=nan", "on off"]
)
def test_a_bad_command_is_logged_and_changes_nothing(command: str, caplog: pytest.LogCaptureFixture) -> None:
    policy = resolve("lcf")
    controller = Controller(policy)
    with caplog.at_level(logging.ERROR, logger="bidkv"):
        obey(command, controller, resolve)
    assert controller.policy is policy
    assert controller.active
    assert len(caplog.records) == 1


def test_a_policy_whose_constructor_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unbuildable(Policy):
        name = "unbuildable"

        def __init__(self) -> None:
            raise OSError("no model file")

    monkeypatch.setattr(policies, "_CATALOG", dict(policies._CATALOG))
    register(Unbuildable)
    controller = Controller(resolve("lcf"))
    obey("unbuildable", controller, resolve)
    assert (controller.policy.name, controller.active) == ("lcf", True)


def test_a_policy_that_ends_its_own_making_changes_nothing() -> None:
    """What is no Exception, as the skip of a test framework is none, must not get into the engine either."""

    class Leaving(BaseException):
        pass

    def leave(spec: str) -> Policy:
        raise Leaving

    controller = Controller(resolve("lcf"))
    obey("leaving", controller, leave)
    assert (controller.policy_name, controller.active) == ("lcf", True)


def test_a_name_is_read_once() -> None:
    class Nameless(Policy):
        reads = 0

        @property
        def name(self) -> str:  # type: ignore[override]
            Nameless.reads += 1
            if Nameless.reads > 1:
                raise RuntimeError("no name any more")
            return "nameless"

    controller = Controller(Nameless())
    controller.disable()
    obey("off", controller, resolve)
    assert controller.policy_name == "nameless"
    assert Nameless.reads == 1


@given(
    st.text(max_size=30)
    | st.sampled_from(["fair", "fast"]).flatmap(lambda n: st.text(max_size=20).map(f"{n}:".__add__))
)
def test_no_command_raises(command: str) -> None:
    controller = Controller(Scripted(reserve=lambda engine: 0))
    obey(command, controller, resolve)
    assert controller.active == (command != "off")


@given(content=st.binary(max_size=60))
def test_a_control_file_of_any_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("control") / "control"
    path.write_bytes(content)
    command = ControlFile(path, clock=FakeClock()).poll()
    if command is not None:
        assert command == content.decode().strip() != ""
        obey(command, Controller(resolve("lcf")), resolve)


@pytest.mark.parametrize("name", ["\x00", "x" * 5000, ".", "..", ""])
def test_a_control_file_that_cannot_be_opened_commands_nothing(tmp_path: Path, name: str) -> None:
    assert ControlFile(tmp_path / name, clock=FakeClock()).poll() is None


def test_a_control_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text("off" + " " * LONGEST_COMMAND_BYTES)
    assert ControlFile(path, clock=FakeClock()).poll() is None


@pytest.mark.parametrize("port", ["9" * 5000, "0" * 6000 + "80", "٣", "65536", "0", "-1", "8e1", "80 80"])
def test_a_port_that_is_none_is_named_with_its_variable(port: str) -> None:
    with pytest.raises(ValueError, match=rf"{METRICS_PORT} must be an integer in \[1, 65535\]") as caught:
        read_environment({METRICS_PORT: port})
    assert len(str(caught.value)) < 200


NESTED: object = []
for _ in range(5000):
    NESTED = [NESTED]

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), "9" * 5000, 5e-324, 1e308, NESTED, {"a": 1}]),
    st.floats(),
    st.text(max_size=10),
    st.text(min_size=LONGEST_NAME - 2, max_size=LONGEST_NAME + 2),
    st.lists(st.integers(), max_size=3),
    st.binary(max_size=4),
)


@given(anything)
def test_client_values_are_taken_or_ignored(value: object) -> None:
    number = positive_number(value)
    assert number is None or 0.0 < number < float("inf")
    assert len(agent_name(value)) <= LONGEST_NAME


@given(anything, anything, anything)
def test_no_extra_argument_of_a_client_fails_a_vllm_request(
    deadline: object, weight: object, agent: object
) -> None:
    extra = {"bidkv_deadline_ms": deadline, "bidkv_weight": weight, "bidkv_agent_id": agent}
    request = SimpleNamespace(
        request_id="r0",
        priority=0,
        sampling_params=SimpleNamespace(extra_args=extra),
        num_preemptions=0,
        num_prompt_tokens=1,
        max_tokens=16,
        _output_token_ids=[],
    )
    view = VllmRequest(request, 1.0, {}, 100)
    assert view.weight > 0
    assert view.deadline_s is None or view.deadline_s >= 1.0
    assert isinstance(view.agent_id, str)


@pytest.mark.parametrize("spec", ["fair:cap=0", "fast:cap=0", "past-future:scenarios=1000000000"])
def test_an_impossible_option_is_told_when_the_policy_is_named(spec: str) -> None:
    name, _, option = spec.partition(":")
    with pytest.raises(PolicySpecError, match=rf"{name}.*{option.partition('=')[0]}"):
        resolve(spec)
