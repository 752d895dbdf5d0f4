"""The test at start: it passes on this SGLang, and a changed retraction is refused with one warning."""

import functools
import inspect
import logging
import re
import textwrap

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler
from sglang.srt.managers import schedule_batch
from sglang.srt.managers.schedule_batch import ScheduleBatch

import sglang
from bidkv.adapters.environment import Environment
from bidkv.adapters.sglang import plugin
from bidkv.adapters.sglang.expectations import NEWEST
from bidkv.adapters.sglang.self_test import find_mismatch

pytestmark = pytest.mark.sglang

MUTATIONS = {
    "the first of the order is retracted": (
        r"sorted_indices\.pop\(\)",
        "sorted_indices.pop(0)",
        "were named",
    ),
    "an order nobody is asked for": (
        r"self\._get_decode_retraction_order\(self\.reqs\)",
        "list(range(len(self.reqs)))",
        "were named",
    ),
    "the retracted in another order": (
        r"return retracted_reqs, ",
        "return retracted_reqs[::-1], ",
        "retract_decode answered",
    ),
    "an answer of two": (
        r"return retracted_reqs, new_estimate_ratio, reqs_to_abort",
        "return retracted_reqs, 1",
        "",
    ),
    "an answer of four": (r", reqs_to_abort$", ", reqs_to_abort, None", ""),
    "memory asked for by another name": (
        r"check_decode_mem\(selected_indices=",
        "check_decode_mem(indices=",
        "",
    ),
    "memory asked of another method": (r"self\.check_decode_mem\(", "self.has_memory(", "has_memory"),
    "one more is retracted": (
        r"not self\.check_decode_mem\(",
        "len(sorted_indices) > 1 or not self.check_decode_mem(",
        "were named",
    ),
    "requests by another name": (r"self\.reqs\b", "self.requests", "requests"),
    "a release by another name": (r"self\.release_req\(", "self.give_up_req(", "give_up_req"),
}
"""By name: a pattern in the source of `retract_decode`, what becomes of it, and the words of the refusal."""


@pytest.fixture
def changed(monkeypatch, hooks):
    """Replace SGLang's `retract_decode` under our hook by a changed one."""

    def change(pattern, replacement):
        wrapper = ScheduleBatch.retract_decode
        original = inspect.unwrap(wrapper)
        source, count = re.subn(
            pattern, replacement, textwrap.dedent(inspect.getsource(original)), flags=re.MULTILINE
        )
        assert count, pattern
        names: dict = {}
        exec(compile(source, "<changed>", "exec"), vars(schedule_batch), names)

        def retract_decode(self):
            return hooks.retract_decode(names["retract_decode"], self)

        retract_decode.__wrapped__ = names["retract_decode"]
        monkeypatch.setattr(ScheduleBatch, "retract_decode", retract_decode)

    return change


@pytest.fixture
def attach(hooks, monkeypatch, caplog):
    """Attach a plugin's service to a scheduler; returns its glue and the warnings."""

    def run(scheduler):
        made = plugin.Plugin(Environment(strategy="fair"))
        monkeypatch.setattr(made, "hooks", hooks)
        monkeypatch.setattr(hooks, "missing", list)
        with caplog.at_level(logging.WARNING, logger="bidkv"):
            glue = made._attach(scheduler)
        return glue, [record.getMessage() for record in caplog.records if record.name == "bidkv"]

    return run


def test_it_passes_and_leaves_nothing_behind(hooks):
    scheduler = ModelFreeScheduler(tokens=100)
    assert find_mismatch(scheduler, hooks) is None
    assert hooks.glue is None
    assert scheduler.running_batch.is_empty()


def test_hooks_of_other_plugins_do_not_see_it(hooks, monkeypatch):
    inside = ScheduleBatch.retract_decode

    @functools.wraps(inside)
    def theirs(batch):
        raise AssertionError("asked to retract a miniature")

    monkeypatch.setattr(ScheduleBatch, "retract_decode", theirs)
    assert find_mismatch(ModelFreeScheduler(tokens=100), hooks) is None


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_retraction_is_refused_with_one_warning(name, changed, attach):
    pattern, replacement, words = MUTATIONS[name]
    changed(pattern, replacement)
    glue, warnings = attach(ModelFreeScheduler(tokens=100))
    assert glue is None
    assert len(warnings) == 1
    assert "'fair' stays off and SGLang keeps its own rules: " in warnings[0]
    assert words in warnings[0]


@pytest.mark.parametrize(
    "name", ["chunked_req", "max_req_len", "waiting_queue", "grammar_manager", "page_size"]
)
def test_a_scheduler_that_lacks_what_is_read_is_left_alone(name, attach):
    scheduler = ModelFreeScheduler(tokens=100)
    delattr(scheduler, name)
    glue, warnings = attach(scheduler)
    assert glue is None
    assert len(warnings) == 1
    assert f"the scheduler has no {name}" in warnings[0]


@pytest.mark.parametrize(("version", "warned"), [(NEWEST, 0), ("0.5.22", 0), ("0.6.0", 1), ("0.5.99rc1", 1)])
def test_a_newer_version_is_used_with_one_warning(version, warned, attach, monkeypatch):
    monkeypatch.setattr(sglang, "__version__", version)
    glue, warnings = attach(ModelFreeScheduler(tokens=100))
    assert glue is not None
    assert len(warnings) == warned
    assert all(f"SGLang {version} is newer than {NEWEST}" in warning for warning in warnings)
