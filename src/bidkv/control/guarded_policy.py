"""The policy in charge and the guard around it: no failure of a policy reaches the engine."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bidkv.control.counters import ControlCounters
from bidkv.control.guards import CircuitBreaker, PreemptionCap
from bidkv.protocol.observer import Observer
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.session_views import SessionView

logger = logging.getLogger("bidkv")

DEFAULT_TIME_BUDGET_S = 0.05
"""Longest time of one answer, in seconds: a few decode steps, and far above any garbage collection."""

STOPS = (KeyboardInterrupt, SystemExit)
"""What asks the whole process to stop; everything else that a policy raises ends with the policy."""

_LONGEST_DETAIL = 300
"""Characters of a failure's description that are logged."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Which questions a policy answers, see the properties of :class:`~bidkv.protocol.policy.Policy`."""

    victims: bool
    next: bool
    reserve: bool
    drops: bool
    parts: bool
    sessions: bool

    @classmethod
    def read(cls, policy: Policy) -> Questions:
        """Ask a policy once; afterwards no property of it, which is foreign code, is read any more."""
        return cls(
            victims=bool(policy.chooses_victims),
            next=bool(policy.chooses_next),
            reserve=bool(policy.keeps_reserve),
            drops=bool(policy.drops_idle),
            parts=bool(policy.drops_parts),
            sessions=bool(policy.needs_sessions),
        )


class GuardedPolicy:
    """Calls one policy, and switches it off when it raises, answers nonsense or overruns its time budget.

    Args:
        policy: answers the questions.
        time_budget_s: longest time one answer may take before the policy is switched off; None switches
            the check off (the simulator, whose results must not depend on the machine).
        clock: seconds, monotonic; only measures the policy's answers.
        observer: told of every decision and of what came of it, or None.

    Attributes:
        call_started_s: when the call in progress started, on `clock`; None outside of one.
        last_reserve_blocks: the reserve the policy asked for last; None before it did.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        time_budget_s: float | None = DEFAULT_TIME_BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
        observer: Observer | None = None,
    ) -> None:
        if time_budget_s is not None and not time_budget_s > 0:
            raise ValueError(f"time_budget_s must be > 0 or None, got {time_budget_s}")
        self.counters = ControlCounters()
        self.breaker = CircuitBreaker()
        self.observer = observer
        self.call_started_s: float | None = None
        self._clock = clock
        self._time_budget_s = time_budget_s
        self._killed = False
        self._reads_figures = False
        self._adopt(policy, afresh=False)

    # --- whether the policy is in charge ---------------------------------------------------------
    @property
    def policy(self) -> Policy:
        """The policy that decides (or would, were it not switched off)."""
        return self._policy

    @property
    def policy_name(self) -> str:
        """The policy's name, as it was read when the policy took over."""
        return self._policy_name

    @property
    def wants_drops(self) -> bool:
        """Whether the policy drops idle sessions where it can, as it said when it took over."""
        return self._questions.drops

    @property
    def active(self) -> bool:
        """Whether the policy decides; False leaves the engine entirely to its own rules."""
        return self._active

    @property
    def killed(self) -> bool:
        """Whether the kill switch is on."""
        return self._killed

    def disable(self) -> None:
        """Kill switch: from the next question on the engine is alone."""
        if not self._killed:
            self.counters.kill_switch_activations += 1
        self._killed = True
        self._refresh()

    def enable(self) -> None:
        """Release the kill switch and close the breaker; the policy starts afresh from the engine's state."""
        if self._active:
            return
        self.switch(self._pristine)

    def switch(self, policy: Policy) -> None:
        """Replace the policy on a running engine; it is told of every live request before it decides.

        Raises:
            ValueError: the policy's preemption cap is out of range; the old policy stays.
            Exception: whatever the policy raises when it is copied or read; the old policy stays.
        """
        self._adopt(policy, afresh=True)

    def _adopt(self, policy: Policy, *, afresh: bool) -> None:
        # A policy learns while it runs; the untouched copy lets a disabled one start afresh later. All that
        # can fail comes first, so that an unusable policy leaves everything as it was.
        pristine = copy.deepcopy(policy)
        cap = PreemptionCap(policy.preemption_cap)
        questions = Questions.read(policy)
        self._policy_name = str(policy.name)
        self._pristine = pristine
        self._policy = policy
        self._questions = questions
        self._cap = cap
        self._killed = False
        self._tells_figures = True
        self._resync = afresh
        self.last_reserve_blocks: int | None = None
        self.breaker.close()
        self._refresh()

    def _refresh(self) -> None:
        """Set anew whether the policy decides, and which questions it is asked."""
        self._active = not self._killed and not self.breaker.is_open
        self.chooses_victims = self._active and self._questions.victims
        self.chooses_next = self._active and self._questions.next
        self.keeps_reserve = self._active and self._questions.reserve
        self.drops_idle = self._active and self._questions.drops
        if self.observer is not None:
            reason = "kill switch" if self._killed else self.breaker.reason
            self._observe(self.observer.policy_changed, self._policy, active=self._active, reason=reason)

    def blame(self, error: BaseException) -> None:
        """Switch the policy off for what it raised, unless that asks the whole process to stop.

        For an engine that calls the policy itself, without a time budget: call it while `error` is handled.
        """
        if isinstance(error, STOPS):
            raise error
        self._fail("exception", describe(error))

    def read_figures(self, engine: EngineView) -> dict[str, float]:
        """Return the policy's own figures for an operator; none while it is switched off or starts afresh.

        A failure ends the figures, not the policy: of several ranks that must decide alike, one reads them.
        """
        if not self._active or self._resync or not self._tells_figures:
            return {}
        self._reads_figures = True
        try:
            return self._ask(_read_numbers, self._policy, engine) or {}
        finally:
            self._reads_figures = False

    # --- the guarded calls -----------------------------------------------------------------------
    def _observe(self, tell: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:  # watching must not disturb what is watched
            self.observer = None
            logger.exception("bidkv: the observer failed and is switched off")

    def _ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the policy; on an exception or an overrun switch it off and return None."""
        budget = self._time_budget_s
        if budget is None:
            try:
                return question(*args, **kwargs)
            except BaseException as error:  # foreign code: whatever it raises must not reach the engine
                self.blame(error)
                return None
        self.call_started_s = started = self._clock()
        try:
            answer = question(*args, **kwargs)
        except BaseException as error:  # see above
            self.blame(error)
            return None
        finally:
            self.call_started_s = None
        elapsed = self._clock() - started
        if elapsed > budget:
            self._fail("time_budget", f"{elapsed * 1e3:.1f} ms, budget {budget * 1e3:.1f} ms")
            return None
        return answer

    def _ask_part(self, session: SessionView, engine: EngineView) -> int:
        """Return how many blocks of an idle session go; 0 if the answer switched the policy off."""
        all_blocks = session.exclusive_blocks
        if not self._questions.parts:
            return all_blocks
        answer: Any = self._ask(self._policy.drop_blocks, session, engine)
        if answer is None:
            return all_blocks if self._active else 0
        if type(answer) is not int or answer < 1:
            self._fail("invalid_answer", f"drop of {describe(answer)} blocks is not an int >= 1")
            return 0
        return min(answer, all_blocks)

    def _fail(self, kind: str, detail: str) -> None:
        self.counters.failures += 1
        if self._reads_figures:
            self._tells_figures = False
            logger.error(
                "bidkv: policy %r tells no figures any more (%s: %s)", self._policy_name, kind, detail
            )
            return
        self.breaker.trip(self._policy_name, kind, detail)
        self._refresh()


def describe(value: object) -> str:
    """Return the text of a foreign object for a log, whatever its own `repr` does."""
    try:
        return repr(value)[:_LONGEST_DETAIL]
    except Exception:  # foreign code again: even printing it may fail
        return f"a {type(value).__name__} that cannot be printed"


def _read_numbers(policy: Policy, engine: EngineView) -> dict[str, float]:
    """Return those of a policy's figures that are numbers."""
    figures: Any = policy.read_figures(engine)
    if not isinstance(figures, dict):
        return {}
    return {str(name): float(value) for name, value in figures.items() if isinstance(value, int | float)}
