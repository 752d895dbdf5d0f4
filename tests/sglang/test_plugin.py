"""How the plugin comes in, checks that it is in, and is steered."""

import importlib.metadata
import logging
import random
import socket
import threading
import urllib.request
from types import SimpleNamespace

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler, make_req
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.plugins.hook_registry import HookRegistry

from bidkv.adapters import service as common_service
from bidkv.adapters.environment import Environment
from bidkv.adapters.sglang import glue as glue_module
from bidkv.adapters.sglang import plugin
from bidkv.adapters.sglang import service as service_module
from bidkv.adapters.sglang.expectations import RETRACTION_ORDER, unresolved
from bidkv.adapters.sglang.hooks import Hooks
from bidkv.adapters.sglang.service import SglangService
from bidkv.observability.watchdog import Watchdog
from bidkv.policy import PolicySpecError, resolve
from bidkv.protocol.policy import Policy
from workloads import random_requests, run_with_arrivals

pytestmark = pytest.mark.sglang


@pytest.fixture
def registered(monkeypatch):
    """What a plugin registers with SGLang from here on, without applying it."""
    seen = []
    monkeypatch.setattr(HookRegistry, "register", lambda target, hook, kind: seen.append(target))
    return seen


def test_sglang_finds_the_plugin():
    points = importlib.metadata.entry_points(group="sglang.srt.plugins")
    assert points["bidkv"].load() is plugin.register


def test_silent_unless_a_strategy_is_set(monkeypatch, registered, caplog):
    monkeypatch.delenv("BIDKV_STRATEGY", raising=False)
    with caplog.at_level(logging.DEBUG):
        plugin.register()
    assert registered == []
    assert caplog.text == ""


def test_a_strategy_registers_every_hook_once(monkeypatch, registered):
    monkeypatch.setenv("BIDKV_STRATEGY", "bidkv")
    plugin.register()
    assert RETRACTION_ORDER in registered
    assert len(registered) == len(set(registered)) == len(Hooks(lambda scheduler: None).targets)


def test_an_unknown_strategy_is_an_error_that_lists_what_exists(monkeypatch, registered):
    monkeypatch.setenv("BIDKV_STRATEGY", "nonsense")
    with pytest.raises(PolicySpecError, match=r"BIDKV_STRATEGY: .*nonsense.*slack-aware"):
        plugin.register()
    assert registered == []


def test_another_version_of_sglang_is_left_alone_with_a_warning(monkeypatch, registered, caplog):
    monkeypatch.setenv("BIDKV_STRATEGY", "bidkv")
    monkeypatch.delattr(ScheduleBatch, "retract_decode")
    plugin.register()
    assert registered == []
    assert (
        "this version of SGLang is not as expected: "
        "it has no sglang.srt.managers.schedule_batch.ScheduleBatch.retract_decode"
    ) in caplog.text


def test_unresolved_names_what_is_not_there():
    nowhere = "sglang.srt.managers.nowhere.Scheduler.step"
    assert unresolved([nowhere, RETRACTION_ORDER]) == [nowhere]


def test_all_hooks_are_in_place_once_sglang_applied_them(hooks):
    assert hooks.missing() == []
    assert len(Hooks(lambda scheduler: None).missing()) == len(hooks.targets)  # never registered


def test_a_hook_that_somebody_replaced_is_missed(hooks, monkeypatch):
    monkeypatch.setattr(ScheduleBatch, "_get_decode_retraction_order", staticmethod(lambda reqs: []))
    assert hooks.missing() == [RETRACTION_ORDER]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


@pytest.fixture
def served(hooks, tmp_path):
    """A scheduler with the whole service around it, as the plugin attaches it; and what an operator has."""
    made = []

    def serve(missing=(), **settings):
        environment = Environment(
            strategy="largest-first",
            control_file=tmp_path / "control",
            metrics_port=_free_port(),
            decision_log=tmp_path / "decisions.jsonl",
        )
        scheduler = ModelFreeScheduler(tokens=320, **settings)
        # Half a second a look: every look at the clock is later than the control file's interval.
        ticks = iter(range(10**9))
        service = SglangService(scheduler, environment, missing, clock=lambda: 0.5 * next(ticks))
        hooks.glue = service.glue
        made.append(service)
        return scheduler, service, environment

    yield serve
    for service in made:
        service.metrics.close()


def test_metrics_and_the_decision_log_tell_what_happened(served):
    scheduler, service, environment = served()
    assert _metrics(environment.metrics_port)["bidkv_hooks_in_place"] == 1
    rng = random.Random(1)
    run_with_arrivals(scheduler, random_requests(rng, 40, pool=320), rng)
    metrics = _metrics(environment.metrics_port)
    counters = service.controller.counters
    assert metrics["bidkv_completions_total"] == 40
    assert metrics["bidkv_preemptions_by_policy_total"] == counters.preemptions_by_policy > 10
    assert metrics['bidkv_policy_active{policy="largest-first"}'] == 1
    assert metrics["bidkv_total_blocks"] == 320
    assert 0 <= metrics["bidkv_free_blocks"] <= 320
    assert metrics["queueing_mu"] > 0
    assert len(environment.decision_log.read_text().splitlines()) >= 10


def test_the_control_file_switches_off_on_and_over(served):
    scheduler, service, environment = served()
    rng = random.Random(1)

    def run() -> None:
        run_with_arrivals(scheduler, random_requests(rng, 30, pool=320), rng)

    def command(text: str) -> None:
        environment.control_file.write_text(text)
        scheduler.step()

    command("off")
    assert service.controller.killed
    run()
    assert service.controller.counters.preemptions_by_policy == 0
    assert service.controller.counters.preemptions_by_engine > 0
    command("on")
    assert service.controller.active
    run()
    assert service.controller.counters.preemptions_by_policy > 0
    command("slack_aware ")
    assert service.controller.policy.name == "slack-aware"
    command("no such policy")
    assert service.controller.policy.name == "slack-aware"
    assert service.controller.active


def test_with_a_hook_missing_sglang_is_left_alone_and_the_metric_says_so(served, caplog):
    _, service, environment = served(missing=[RETRACTION_ORDER])
    assert service.glue is None
    assert f"these hooks are not in place: {RETRACTION_ORDER}" in caplog.text
    metrics = _metrics(environment.metrics_port)
    assert metrics["bidkv_hooks_in_place"] == 0
    assert metrics['bidkv_policy_active{policy="largest-first"}'] == 0


def test_a_dropped_adapter_shows_in_the_metric(served):
    _, service, environment = served()
    service.dropped()
    assert _metrics(environment.metrics_port)["bidkv_hooks_in_place"] == 0


@pytest.mark.parametrize("failing", ["the policy's figures", "the advice on replicas"])
def test_what_only_the_first_rank_reads_cannot_part_it_from_the_others(served, monkeypatch, caplog, failing):
    """The other ranks would wait for ever for one that has left the policy alone."""

    def fail(*args, **kwargs):
        raise RuntimeError("no figures")

    monkeypatch.setattr(service_module, "_read_rank", lambda scheduler: (True, 2))
    monkeypatch.setattr(service_module, "_make_broadcast", lambda scheduler: lambda word: word)
    scheduler, service, environment = served()
    if failing == "the policy's figures":
        monkeypatch.setattr(service.controller.policy, "read_figures", fail, raising=False)
    else:
        monkeypatch.setattr(service, "_replicas", SimpleNamespace(update=fail, desired=0))
    rng = random.Random(1)
    run_with_arrivals(scheduler, random_requests(rng, 20, pool=320), rng)
    assert service.glue is not None
    assert service.controller.active
    assert caplog.text.count("no figures") >= 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert _metrics(environment.metrics_port)["bidkv_preemptions_by_policy_total"] > 0


def test_a_retraction_that_answers_otherwise_is_passed_on(caplog):
    """An answer that SGLang itself understands reaches it, whatever the adapter makes of it."""
    scheduler = ModelFreeScheduler(tokens=320)
    given_up = []
    hooks = Hooks(lambda scheduler: None, lambda: given_up.append(True))
    service = SglangService(scheduler, Environment(strategy="lcf"))
    hooks.glue = service.glue
    batch = SimpleNamespace(reqs=[])
    assert hooks.retract_decode(lambda batch: "another answer", batch) == "another answer"
    assert hooks.glue is None
    assert given_up == [True]


def test_an_error_while_it_gives_up_stays_inside(caplog):
    def fail():
        raise RuntimeError("cannot be switched off")

    hooks = Hooks(fail, fail)
    hooks.scheduler_made(None, object())
    assert "could not clear up" in caplog.text
    assert hooks.glue is None


def test_a_setup_that_was_never_shown_to_work_is_left_alone(served, monkeypatch, caplog):
    from sglang.srt.disaggregation.utils import DisaggregationMode

    monkeypatch.setattr(
        ModelFreeScheduler,
        "_leave_out_what_does_not_schedule",
        _and_then(
            ModelFreeScheduler._leave_out_what_does_not_schedule,
            "disaggregation_mode",
            DisaggregationMode.DECODE,
        ),
    )
    _, service, _ = served()
    assert service.glue is None
    assert "prefill and decode are disaggregated" in caplog.text


def _and_then(method, name, value):
    def wrapped(self):
        method(self)
        setattr(self, name, value)

    return wrapped


def test_user_priorities_bound_a_policy(served):
    _, service, _ = served(priority_scheduling=True)
    assert type(service.controller.policy).__name__ == "WithinClasses"


@pytest.mark.parametrize(("tokens", "cycling"), [(200, 1), (4000, 0)])
def test_waves_of_retraction_are_a_limit_cycle(hooks, tokens, cycling):
    now_s = 0.0
    environment = Environment(strategy="largest-first", metrics_port=_free_port())
    scheduler = ModelFreeScheduler(tokens=tokens)
    service = SglangService(scheduler, environment, clock=lambda: now_s)
    hooks.glue = service.glue
    try:
        for wave in range(12):
            for number in range(12):
                prompt = [3 + (84 * wave + 7 * number + position) % 900 for position in range(10)]
                scheduler.submit(make_req(f"{wave}-{number}", prompt, 30))
            while not scheduler.idle():
                scheduler.step()
                now_s += 0.1
            for _ in range(5):
                scheduler.step()
                now_s += 0.25
        metrics = _metrics(environment.metrics_port)
    finally:
        service.metrics.close()
    assert (metrics["bidkv_preemptions_by_policy_total"] > 0) == cycling
    assert metrics["bidkv_limit_cycle"] == cycling


@pytest.mark.parametrize("overlap", [False, True])
def test_a_request_whose_last_token_is_on_its_way_is_not_taken_for_gone(hooks, monkeypatch, overlap):
    """What left unnoticed is looked for now and then; here after every pass."""
    monkeypatch.setattr(glue_module, "_RECONCILE_EVERY", 1)
    scheduler = ModelFreeScheduler(tokens=4000, overlap=overlap)
    service = SglangService(scheduler, Environment(strategy="fair"))
    hooks.glue = service.glue
    for number in range(20):
        scheduler.submit(make_req(f"r{number}", list(range(3, 40 + number)), 3 + number % 5))
    scheduler.run()
    counters = service.controller.counters
    assert (counters.completions, counters.aborts) == (20, 0)


@pytest.mark.parametrize(("tree", "unavailable"), [("unified-rust", 1), ("unified-python", 0)])
def test_metrics_say_whether_sessions_can_be_kept_and_count_them_under_any_policy(hooks, tree, unavailable):
    environment = Environment(strategy="sessions", metrics_port=_free_port())
    scheduler = ModelFreeScheduler(tokens=4000, tree=tree, page_size=16)
    service = SglangService(scheduler, environment)
    hooks.glue = service.glue
    try:
        before = _metrics(environment.metrics_port)["bidkv_retention_unavailable"]
        service.controller.switch(resolve("fair"))
        for turn in range(3):
            scheduler.submit(make_req(f"r{turn}", list(range(3, 103 + 40 * turn)), 4))
            scheduler.run()
        after = _metrics(environment.metrics_port)
    finally:
        service.metrics.close()
    assert before == unavailable
    assert after["bidkv_retention_unavailable"] == 0  # `fair` keeps none
    assert after["bidkv_turns_found_total"] == (0 if unavailable else 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_policy_that_hangs_is_reported_while_it_hangs(served, monkeypatch, caplog, ranks):
    asked, released = threading.Event(), threading.Event()

    class Hangs(Policy):
        name = "hangs"

        def select_next(self, engine):
            asked.set()
            released.wait(60)
            return next(iter(engine.waiting()), None)

    watchdog = Watchdog(limit_s=0.0)
    monkeypatch.setattr(watchdog, "start", lambda: None)  # it looks when the test says so
    monkeypatch.setattr(common_service, "PROCESS_WATCHDOG", watchdog)
    monkeypatch.setattr(service_module, "_read_rank", lambda scheduler: (True, ranks))
    monkeypatch.setattr(service_module, "_make_broadcast", lambda scheduler: lambda word: word)
    scheduler, service, _ = served()
    service.controller.switch(Hangs())
    scheduler.submit(make_req("a", [5, 6, 7], 4))
    engine_thread = threading.Thread(target=scheduler.step)
    engine_thread.start()
    try:
        assert asked.wait(60)
        watchdog.look()
    finally:
        released.set()
        engine_thread.join()
    assert "policy 'hangs' has not answered" in caplog.text
    # One rank's slow moment must not switch the policy off there alone.
    assert service.controller.active or ranks == 1


def test_the_plugin_attaches_the_service_of_the_environment(hooks, monkeypatch):
    installed = plugin.Plugin(Environment(strategy="bidkv"))
    monkeypatch.setattr(installed, "hooks", hooks)
    glue = installed._attach(ModelFreeScheduler(tokens=100))
    assert glue is installed.service.glue is not None
    installed._dropped()
    assert installed.service.glue is None


@pytest.mark.parametrize("name", ["sglang_default", "slack_aware", "bidkv", "fair", "lcf"])
def test_serve_accepts_every_policy_name(monkeypatch, name):
    from bidkv.adapters.sglang.server import find_environment_problem

    monkeypatch.setenv("BIDKV_STRATEGY", name)
    assert find_environment_problem() is None


def test_serve_refuses_a_bad_environment_before_it_loads_anything(monkeypatch, capsys):
    from bidkv.experiments.sglang import serve

    monkeypatch.setenv("BIDKV_STRATEGY", "nonsense")
    assert serve.main(["--model-path", "nowhere"]) == 2
    assert "nonsense" in capsys.readouterr().err
    monkeypatch.setenv("BIDKV_STRATEGY", "mc-sf")
    assert serve.main(["--model-path", "nowhere"]) == 2
    assert "simulator only" in capsys.readouterr().err
    monkeypatch.setenv("BIDKV_STRATEGY", "bidkv")
    monkeypatch.setenv("BIDKV_METRICS_PORT", "x")
    assert serve.main(["--model-path", "nowhere"]) == 2
    assert "BIDKV_METRICS_PORT" in capsys.readouterr().err
