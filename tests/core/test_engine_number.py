"""Engines under one environment: each has a port and a log, in one process or in several."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from bidkv.adapters.engine_number import name_log, number_engine
from bidkv.adapters.environment import Environment

ENVIRONMENT = Environment(
    strategy="fair",
    control_file=Path("control"),
    metrics_port=9400,
    decision_log=Path("/logs/decisions.jsonl"),
)


class Scheduler:
    """Stands for an engine's."""


def test_rank_0_has_what_the_operator_named():
    engine = Scheduler()
    assert number_engine(engine, ENVIRONMENT, 0) == (ENVIRONMENT, 0)


def test_each_rank_has_a_port_and_a_log_of_its_own_and_the_control_file_is_shared():
    engines = [Scheduler() for _ in range(4)]  # in processes of their own, but for this test
    found = [number_engine(engine, ENVIRONMENT, rank)[0] for rank, engine in enumerate(engines)]
    assert [environment.metrics_port for environment in found] == [9400, 9401, 9402, 9403]
    assert [str(environment.decision_log) for environment in found] == [
        "/logs/decisions.jsonl",
        "/logs/decisions.rank1.jsonl",
        "/logs/decisions.rank2.jsonl",
        "/logs/decisions.rank3.jsonl",
    ]
    assert {environment.control_file for environment in found} == {Path("control")}
    assert {environment.strategy for environment in found} == {"fair"}


def test_two_engines_of_one_process_do_not_share_a_port_or_a_log():
    first, second = Scheduler(), Scheduler()
    assert number_engine(first, ENVIRONMENT, 0)[1] == 0
    environment, number = number_engine(second, ENVIRONMENT, 0)
    assert number == 1
    assert environment.metrics_port == 9401
    assert str(environment.decision_log) == "/logs/decisions.rank1.jsonl"


def test_the_number_of_an_engine_that_is_gone_is_free_again():
    first = Scheduler()
    number_engine(first, ENVIRONMENT, 0)
    del first
    gc.collect()
    engine = Scheduler()
    assert number_engine(engine, ENVIRONMENT, 0) == (ENVIRONMENT, 0)


def test_engines_with_other_ports_and_logs_do_not_meet():
    engines = [Scheduler() for _ in range(3)]
    for port, engine in enumerate(engines, start=9500):
        environment = Environment(strategy="fair", metrics_port=port, decision_log=Path(f"{port}.jsonl"))
        assert number_engine(engine, environment, 0) == (environment, 0)


def test_engines_that_export_and_log_nothing_need_no_numbers():
    engines = [Scheduler() for _ in range(3)]
    environment = Environment(strategy="fair")
    assert [number_engine(engine, environment, 0) for engine in engines] == [(environment, 0)] * 3


def test_a_rank_without_a_port_left_has_no_metrics_and_says_so(caplog):
    engine = Scheduler()
    environment, number = number_engine(engine, Environment(strategy="fair", metrics_port=65_534), 2)
    assert (environment.metrics_port, number) == (None, 2)
    assert "no metrics for engine 2: BIDKV_METRICS_PORT 65534 plus 2 is not a port" in caplog.text


@pytest.mark.parametrize(
    ("path", "named"), [("d.jsonl", "d.rank3.jsonl"), ("log", "log.rank3"), ("a.b.json", "a.b.rank3.json")]
)
def test_the_name_of_a_log_keeps_its_ending(path, named):
    assert name_log(Path(path), 3) == Path(named)
