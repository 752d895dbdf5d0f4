"""The four environment variables, and what the plugins make of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.adapters.environment import Environment, read_environment


def test_nothing_set_means_nothing_asked_for():
    assert read_environment({}) == Environment()
    assert read_environment({"BIDKV_STRATEGY": "  ", "BIDKV_METRICS_PORT": ""}) == Environment()


def test_all_four_are_read_and_nothing_else():
    environment = read_environment(
        {
            "BIDKV_STRATEGY": " lcf ",
            "BIDKV_CONTROL_FILE": "control",
            "BIDKV_METRICS_PORT": "9100",
            "BIDKV_DECISION_LOG": "log.jsonl",
            "BIDKV_OTHER": "ignored",
        }
    )
    assert environment == Environment("lcf", Path("control"), 9100, Path("log.jsonl"))


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "9100.5", "९"])
def test_a_port_that_is_none_is_named(port):
    with pytest.raises(ValueError, match=r"BIDKV_METRICS_PORT must be an integer in \[1, 65535\], got"):
        read_environment({"BIDKV_METRICS_PORT": port})
