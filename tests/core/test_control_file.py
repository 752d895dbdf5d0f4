"""The control file: what it accepts, what it refuses, and what a command does to a controller."""

from __future__ import annotations

import os

import pytest

from bidkv.control import Controller
from bidkv.control_file import LONGEST_COMMAND_BYTES, ControlFile, obey
from bidkv.policy import resolve
from bidkv.protocol.policy import Policy


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control"


@pytest.fixture
def control(path, clock):
    return ControlFile(path, interval_s=0.25, clock=clock)


def write(path, text, mode=0o600):
    # A new inode each time: two writes within one tick of the file system's clock must both be seen.
    new = path.with_name("new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, path)


def test_a_missing_file_commands_nothing_until_it_appears(control, path, clock):
    assert control.poll() is None
    write(path, "off\n")
    clock.now_s += 0.25
    assert control.poll() == "off"


def test_a_command_is_returned_once(control, path, clock):
    write(path, "  lcf \n")
    assert control.poll() == "lcf"
    clock.now_s += 1
    assert control.poll() is None
    write(path, "on")
    clock.now_s += 1
    assert control.poll() == "on"


def test_it_is_looked_at_no_more_often_than_the_interval(control, path, clock):
    assert control.poll() is None
    write(path, "off")
    clock.now_s += 0.2499
    assert control.poll() is None
    clock.now_s += 0.0002
    assert control.poll() == "off"


def test_an_empty_file_commands_nothing(control, path):
    write(path, " \n")
    assert control.poll() is None


def test_a_file_that_comes_back_is_read_again(control, path, clock):
    write(path, "off")
    assert control.poll() == "off"
    path.unlink()
    clock.now_s += 1
    assert control.poll() is None
    write(path, "off")
    clock.now_s += 1
    assert control.poll() == "off"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_others_may_write_is_refused_with_one_warning(control, path, clock, caplog, mode):
    write(path, "off", mode)
    for _ in range(3):
        assert control.poll() is None
        clock.now_s += 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "chmod go-w" in caplog.text
    path.chmod(0o600)
    assert control.poll() == "off"


def test_a_symlink_is_refused(control, path, tmp_path, caplog):
    write(tmp_path / "target", "off")
    path.symlink_to(tmp_path / "target")
    assert control.poll() is None
    assert str(path) in caplog.text


def test_another_users_file_is_refused(control, path, monkeypatch, caplog):
    write(path, "off")
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)
    assert control.poll() is None
    assert "owns it" in caplog.text


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_regular_file_is_refused(control, path, kind, caplog):
    path.mkdir(mode=0o700) if kind == "directory" else os.mkfifo(path, 0o600)
    assert control.poll() is None
    assert "not a regular file" in caplog.text


def test_a_long_or_undecodable_file_is_refused(control, path, clock, caplog):
    write(path, "x" * (LONGEST_COMMAND_BYTES + 1))
    assert control.poll() is None
    assert "longer than" in caplog.text
    new = path.with_name("bytes")
    new.write_bytes(b"\xff\xfe")
    new.chmod(0o600)
    os.replace(new, path)
    clock.now_s += 1
    assert control.poll() is None


def test_commands_reach_the_controller(caplog):
    controller = Controller(resolve("lcf"))
    obey("off", controller, resolve)
    assert (controller.active, controller.killed) == (False, True)
    obey("on", controller, resolve)
    assert (controller.active, controller.killed) == (True, False)
    obey("largest-first", controller, resolve)
    assert controller.policy.name == "largest-first"
    obey("no-such-policy", controller, resolve)
    assert controller.policy.name == "largest-first"
    assert controller.active
    assert "Available:" in caplog.text


class Uncopied(Policy):
    """Can be copied once, when it takes over, and never again."""

    name = "uncopied"
    copies = 0

    def __deepcopy__(self, memo: object) -> Uncopied:
        if self.copies:
            raise RuntimeError("copied once already")
        made = Uncopied()
        made.copies = 1
        return made


def test_a_policy_that_cannot_start_afresh_stays_off(caplog):
    """Switching on copies the policy, which is foreign code."""
    controller = Controller(Uncopied())
    obey("off", controller, resolve)
    obey("on", controller, resolve)
    assert controller.killed
    assert "ignored: copied once already" in caplog.text
