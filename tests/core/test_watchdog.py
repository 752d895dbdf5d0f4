"""A policy that hangs is reported once, while it hangs; one that only thinks long is not."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from bidkv.control import Controller
from bidkv.observability.watchdog import Watchdog
from bidkv.policy import resolve
from bidkv.protocol.policy import Policy


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_a_call_beyond_the_limit_is_reported_once(clock, caplog):
    controller = Controller(resolve("lcf"))
    watchdog = Watchdog(limit_s=2.0, clock=clock)
    watchdog.watch(controller)
    controller.call_started_s = 50.0
    clock.now_s = 52.0
    watchdog.look()
    assert not caplog.records
    clock.now_s = 52.5
    watchdog.look()
    watchdog.look()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "'lcf' has not answered for 2.5 s" in caplog.text
    controller.call_started_s = 60.0  # the next call hangs as well
    clock.now_s = 63.0
    watchdog.look()
    assert len(caplog.records) == 2


def test_between_calls_there_is_nothing_to_report(clock, caplog):
    controller = Controller(resolve("lcf"))
    watchdog = Watchdog(clock=clock)
    watchdog.watch(controller)
    clock.now_s += 1000
    watchdog.look()
    assert not caplog.records


def test_a_policy_that_really_hangs_is_seen_from_another_thread(caplog):
    released = threading.Event()
    asked = threading.Event()

    class Hangs(Policy):
        name = "hangs"

        def on_arrival(self, request: Any, engine: Any) -> None:
            asked.set()
            released.wait(60)

    class Engine:
        now_s = 0.0

    controller = Controller(Hangs())
    watchdog = Watchdog(limit_s=0.0)
    watchdog.watch(controller)
    request = type("Request", (), {"request_id": "a", "num_prompt_tokens": 1, "agent_id": ""})()
    engine_thread = threading.Thread(target=controller.on_arrival, args=(request, Engine()))
    engine_thread.start()
    try:
        assert asked.wait(60)
        watchdog.look()
    finally:
        released.set()
        engine_thread.join()
    assert "policy 'hangs' has not answered" in caplog.text


def test_being_watched_keeps_no_controller_alive(clock):
    watchdog = Watchdog(clock=clock)
    watchdog.watch(Controller(resolve("lcf")))
    gc.collect()
    assert not list(watchdog._reported)
