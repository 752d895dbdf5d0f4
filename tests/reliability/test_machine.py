"""A state machine over engine, controller, guards and every policy: anything may happen in any order.

Each step is checked by :class:`tests.simulator.driver.CheckedRun` (blocks conserved, nobody lost or run
twice, reserve kept, preemptions within the cap); at the end all counters must equal what happened. Quick:
about 10^4 operations; with `--hypothesis-profile=nightly` 10^6.
"""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.reliability.policies import Unreliable
from tests.reliability.tally import TALLY
from tests.simulator.driver import CheckedRun, WatchedController
from tests.simulator.test_invariants import engines, expected_outputs
from tests.support import FakeClock

from bidkv.policy import available, resolve
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig

NAMES = ["unreliable", "reliable", *available(), "fair:cap=1;gain=50", "fast:cap=2;passes=1"]
MOST_LIVE = 30
MOST_STEPS_TO_DRAIN = 20_000


class Interference(RuleBasedStateMachine):
    """One engine, whoever wants to interfere with it, and the books of both."""

    @initialize(
        config=engines() | engines(prefix_caching=True),
        policy=st.sampled_from(NAMES),
        seed=st.integers(0, 999),
    )
    def start(self, config: EngineConfig, policy: str, seed: int) -> None:
        self.config = config
        self.random = random.Random(seed)
        self.budget_clock = FakeClock()
        self.may_fail = False
        control = WatchedController(self.policy_of(policy), time_budget_s=0.05, clock=self.budget_clock)
        self.run = CheckedRun([], control, config)
        if config.enable_prefix_caching:
            self.run.engine.track_sessions(find_by_prefix=bool(seed % 2))
        self.sources: list[WorkloadRequest] = []
        self.disabled = 0
        self.interventions = 0

    def policy_of(self, name: str) -> Policy:
        if name in ("unreliable", "reliable"):
            self.may_fail |= name == "unreliable"
            rate = 0.05 if name == "unreliable" else 0.0
            return Unreliable(self.random.randrange(1000), rate, self.budget_clock)
        policy = resolve(name)
        return WithinClasses(policy) if self.config.scheduling_policy == "priority" else policy

    # --- what may happen -------------------------------------------------------------------------
    @rule(
        prompt=st.integers(1, 60),
        output=st.integers(1, 40),
        cap=st.none() | st.integers(1, 45),
        priority=st.integers(-1, 1),
        deadline_ms=st.none() | st.sampled_from([1.0, 5_000.0, 1e300]),
        weight=st.sampled_from([1.0, 1.0, 5e-324, 1e300]),
        session=st.none() | st.integers(0, 8),
        ends=st.booleans(),
        count=st.integers(1, 6),
    )
    def arrive(
        self,
        prompt: int,
        output: int,
        cap: int | None,
        priority: int,
        deadline_ms: float | None,
        weight: float,
        session: int | None,
        ends: bool,
        count: int,
    ) -> None:
        for _ in range(count):
            if prompt >= self.config.model_len or len(self.live) >= MOST_LIVE:
                return
            source = WorkloadRequest(
                f"r{len(self.sources)}",
                # Distinct: real engines preempt in a circle when priorities and arrivals are equal.
                self.run.engine.now_s + len(self.sources) * 2**-20,
                prompt,
                output,
                max_tokens=cap,
                priority=priority,
                deadline_ms=deadline_ms,
                weight=weight,
                hash_ids=tuple(range(prompt // 8 + 1)) if self.config.enable_prefix_caching else (),
            )
            if session is not None:
                # Turns of any length in any order, several at once, and more of them after the end.
                source = replace(
                    source,
                    session_id=f"s{session}",
                    is_last_turn=ends,
                    gap_hint_s=deadline_ms,
                    hash_ids=(),
                    content=((0, prompt // 3), (session + 1, prompt - prompt // 3)) if prompt > 2 else (),
                )
            self.sources.append(source)
            self.run.submit(source)

    @precondition(lambda self: not self.run.engine.idle)
    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            if self.run.engine.idle:
                return
            self.run.step_alone()

    # One rule for all that interferes: most of what happens is work.
    @rule(
        action=st.sampled_from(["abort", "abort", "disable", "enable", "switch", "switch", "jump", "reset"]),
        number=st.integers(0, 10**6),
    )
    def interfere(self, action: str, number: int) -> None:
        run, control = self.run, self.run.control
        self.interventions += action in ("disable", "enable", "switch")
        match action:
            case "abort" if self.live:
                run.abort(self.live[number % len(self.live)])
            case "reset" if not self.live:
                control.on_cache_reset()
            case "disable":
                self.disabled += not control.killed
                control.disable()
                assert not control.active
            case "enable":
                control.enable()
                assert control.active
            case "switch":
                control.switch(self.policy_of(NAMES[number % len(NAMES)]))
                assert control.active
            case "jump":
                seconds = (0.0, 1e-9, 3.0, 1e4, 1e9, -2.0)[number % 6]
                run.engine.wait_until(max(0.0, run.engine.now_s + seconds))

    # --- what must hold --------------------------------------------------------------------------
    @property
    def live(self) -> list:
        engine = self.run.engine
        return [*engine.running, *engine.waiting()]

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        steps = 0
        while not run.engine.idle:
            run.step_alone()
            steps += 1
            assert steps < MOST_STEPS_TO_DRAIN, "the requests that are left do not come to an end"
        self.check_books()

    def check_books(self) -> None:
        engine, books, counters = self.run.engine, self.run.books, self.run.control.counters
        assert engine.free_blocks == engine.num_blocks
        assert engine.num_prefilling == 0
        expected = expected_outputs(self.sources, self.config)
        assert books.outputs == {name: n for name, n in expected.items() if name not in books.aborted}
        assert counters.arrivals == len(self.sources)
        assert (counters.completions, counters.aborts) == (len(books.finished), len(books.aborted))
        assert counters.admissions == books.admissions
        assert engine.num_steps == counters.steps == len(books.steps)
        assert engine.num_scheduled_tokens == counters.scheduled_tokens == books.scheduled_tokens
        assert engine.books.recomputed_tokens == counters.recomputed_tokens == books.recomputed_tokens
        by_whom = counters.preemptions_by_policy + counters.preemptions_by_engine
        assert engine.num_preemptions == by_whom == books.preemptions
        assert counters.tokens_lost == books.tokens_lost
        assert counters.failures == sum(self.run.control.breaker.failures.values())
        assert self.may_fail or counters.failures == 0, self.run.control.breaker.reason
        assert counters.kill_switch_activations == self.disabled
        assert counters.session_failures == 0
        sessions = self.run.control.sessions
        if sessions is not None:
            # Nothing runs: nothing is held, and what is retained is what idle sessions own, each block once.
            assert not sessions._by_request
            assert not sessions._held
            assert sessions.retained_blocks == len(sessions._tree)
        TALLY["engine, controller, policies"].update(
            {
                "steps": counters.steps,
                "arrivals": counters.arrivals,
                "preemptions": books.preemptions,
                "aborts": counters.aborts,
                "turns of sessions": counters.turns,
                "sessions dropped": counters.session_drops,
                "kills, releases and switches": self.interventions,
                "policy failures": counters.failures,
            }
        )


TestInterference = Interference.TestCase
TestInterference.settings = settings(
    max_examples=max(200, settings.default.max_examples),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
