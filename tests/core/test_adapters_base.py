from typing import Any

import pytest

from bidkv.adapters import BaseAdapterMetrics, FrameworkAdapter
from bidkv.config import BidKVConfig
from bidkv.scoring import PositionalScoring

COUNTERS = [
    "total_evictions",
    "total_tokens_freed",
    "total_pressure_events",
    "total_requests_completed",
    "total_decode_steps",
    "kill_switch_activations",
]


class Adapter(FrameworkAdapter):
    def install(self) -> None: ...

    def get_kv_stats(self) -> tuple[int, int]:
        return (3, 10)

    def on_request_complete(self, request_id: str) -> None: ...


def test_adapter_holds_config_and_scoring() -> None:
    config, scoring = BidKVConfig(enabled=True), PositionalScoring()
    adapter = Adapter(config, scoring)
    assert adapter.config is config
    assert adapter.scoring is scoring


@pytest.mark.parametrize("missing", ["install", "get_kv_stats", "on_request_complete"])
def test_every_method_is_abstract(missing: str) -> None:
    members: dict[str, Any] = {missing: getattr(FrameworkAdapter, missing)}
    incomplete = type("Incomplete", (Adapter,), members)
    with pytest.raises(TypeError, match=missing):
        incomplete(BidKVConfig(), PositionalScoring())


def test_counters_start_at_zero() -> None:
    assert BaseAdapterMetrics().as_dict() == dict.fromkeys(COUNTERS, 0)


@pytest.mark.parametrize(
    ("record", "counter"),
    [
        ("record_eviction", "total_evictions"),
        ("record_pressure_event", "total_pressure_events"),
        ("record_request_completed", "total_requests_completed"),
        ("record_decode_step", "total_decode_steps"),
        ("record_kill_switch_activation", "kill_switch_activations"),
    ],
)
def test_each_record_counts_one_thing(record: str, counter: str) -> None:
    metrics = BaseAdapterMetrics()
    getattr(metrics, record)()
    getattr(metrics, record)()
    assert metrics.as_dict() == {**dict.fromkeys(COUNTERS, 0), counter: 2}
    assert getattr(metrics, counter) == 2


def test_evictions_count_tokens() -> None:
    metrics = BaseAdapterMetrics()
    metrics.record_eviction(30)
    metrics.record_eviction(12)
    assert (metrics.total_evictions, metrics.total_tokens_freed) == (2, 42)
    with pytest.raises(ValueError, match="tokens_freed must be >= 0"):
        metrics.record_eviction(-1)
    assert metrics.total_evictions == 2
