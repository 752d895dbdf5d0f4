"""How many replicas the load of one running server needs: the figure that scales a fleet.

The load of a server is lambda / mu, its arrivals over what it sustains. How full its memory is says less: a
step takes longer the more requests run, so a server at half its rate is a quarter full, and one whose memory
is used to 70 % can be close to its limit. With N running requests of the N' that fit, and t(n) the seconds of
a step in which n run, Little's law gives

    lambda / mu = (N / N') * (t(N') / t(N)).

N / N' is the controller's utilization. t is learned from the engine's own steps, as a line over the running
requests. The same holds of the tokens in a step and its token budget, which bind where prompts are long and
answers short. The larger of the two is the load.

The figures of several servers add up to the replicas that all of them need together, and the sum stays the
same while requests move from one server to another: arrivals count with the same fading weight in a server
that has just started (from zero) as in one whose share has just shrunk.
"""

from __future__ import annotations

import math

from bidkv.stability.state import StabilityState

TARGET_LOAD = 0.7
"""Share of what it sustains that a replica should carry; the rest is for bursts until the next one serves."""

_ENOUGH = (0.55, 0.8)
"""Loads of a replica that count as right: from within, nothing changes until one of these is passed."""

_ARRIVALS_S = 60.0
"""Time constant of the arrivals, that of the controller's own estimate."""

_CAPACITY_S = 180.0
"""Time constant of what a server is found to sustain, which changes with the traffic's lengths alone."""

_STEPS_S = 600.0
"""Time constant of what was learned of step times."""

_DRAIN_S = 120.0
"""Seconds in which waiting requests should be worked off."""

_EVERY_S = 1.0
"""Updates that come faster are left out: a few steps tell nothing."""

_FEWEST_STEPS = 3
_PRIOR_SPREAD = 0.05
"""Step times are taken to double from an empty to a full server until they were seen at loads that vary by
more than this share of what fits."""


class ReplicaAdvisor:
    """Replicas that the load of one server needs, with hysteresis; O(1) an update.

    While a server's load lies between 55 and 80 % of what it sustains the answer is exactly 1, so a fleet in
    which every server is within keeps its size. Outside, it is the load over the target load, until the load
    is back within reach of the target.

    Args:
        target_load: share of what it sustains that a replica should carry, in (0, 1).

    Attributes:
        load: arrivals over what this server sustains, the work of its queue included.
        desired: replicas for it; 0 until enough requests were seen.

    Raises:
        ValueError: a target load out of range.
    """

    __slots__ = (
        "_arrivals",
        "_by_running",
        "_by_tokens",
        "_capacity",
        "_filled",
        "_now_s",
        "_rate",
        "_running",
        "_steps",
        "_target",
        "_tokens",
        "_used",
        "_within",
        "desired",
        "load",
    )

    def __init__(self, target_load: float = TARGET_LOAD) -> None:
        if not 0.0 < target_load < 1.0:
            raise ValueError("target_load must be in (0, 1)")
        self._target = target_load
        self._now_s: float | None = None
        self._arrivals = self._steps = self._tokens = self._running = 0
        self._rate = self._capacity = self._used = self._filled = 0.0
        self._by_running, self._by_tokens = _StepTrend(), _StepTrend()
        self._within = False
        self.load = self.desired = 0.0

    def update(
        self,
        now_s: float,
        state: StabilityState,
        *,
        is_known: bool,
        arrivals: int,
        steps: int,
        tokens: int,
        running: int,
        waiting: int,
        token_budget: int,
    ) -> float:
        """Take in the server's state and return the replicas that its load needs.

        Args:
            now_s: seconds, monotonic; call it a few times a second or less often.
            state: the controller's, from :meth:`QueueingController.compute_flow_state`.
            is_known: whether the controller has seen enough requests to know their service.
            arrivals: requests that arrived since the server started.
            steps: steps that it ran.
            tokens: tokens that it scheduled.
            running: requests that run now.
            waiting: requests that wait now.
            token_budget: most tokens of a step.
        """
        if self._now_s is None:
            self._remember(now_s, arrivals, steps, tokens, running)
            return self.desired
        passed_s, ran = now_s - self._now_s, steps - self._steps
        if passed_s < _EVERY_S:
            return self.desired
        keep = math.exp(-passed_s / _ARRIVALS_S)
        self._rate = self._rate * keep + (1.0 - keep) * (arrivals - self._arrivals) / passed_s
        if ran >= _FEWEST_STEPS and min(running, self._running) > 0:
            step_s, used = passed_s / ran, min((tokens - self._tokens) / (ran * token_budget), 1.0)
            self._by_running.update(0.5 * (running + self._running), step_s, passed_s)
            self._by_tokens.update(used, step_s, passed_s)
            self._used = self._used * keep + (1.0 - keep) * used
            slowly = math.exp(-passed_s / _STEPS_S)
            self._filled = self._filled * slowly + (1.0 - slowly) * min(state.utilization_rho, 1.0)
        self._remember(now_s, arrivals, steps, tokens, running)
        if not is_known:
            return self.desired
        carried = self._carried(state)
        if carried > 0.0 and state.arrival_rate_lambda > 0.0:
            found = math.log(state.arrival_rate_lambda / carried)
            share = 1.0 - math.exp(-passed_s / _CAPACITY_S) if self._capacity else 1.0
            old = math.log(self._capacity) if self._capacity else 0.0
            self._capacity = math.exp(old + share * (found - old))
        if not self._capacity:
            return self.desired
        self.load = (self._rate + waiting / _DRAIN_S) / self._capacity
        self.desired = self._steady(self.load)
        return self.desired

    def _remember(self, now_s: float, arrivals: int, steps: int, tokens: int, running: int) -> None:
        self._now_s, self._arrivals, self._steps = now_s, arrivals, steps
        self._tokens, self._running = tokens, running

    def _carried(self, state: StabilityState) -> float:
        """Return the controller's load as a share of what the server sustains."""
        filled = state.utilization_rho
        of_budget = min(self._used * self._by_tokens.slowdown(self._used, 1.0), 1.0)
        if not state.is_stable or filled >= 1.0:
            return max(filled, of_budget)
        fit = self._by_running.mean / self._filled if self._filled else 0.0
        of_memory = filled * self._by_running.slowdown(filled * fit, fit)
        return max(min(of_memory, 1.0), of_budget)

    def _steady(self, load: float) -> float:
        """Return exactly 1 while the load stays within `_ENOUGH`; from outside it must come halfway back."""
        low, high = _ENOUGH
        if not self._within:
            low, high = 0.5 * (low + self._target), 0.5 * (high + self._target)
        self._within = low <= load <= high
        return 1.0 if self._within else load / self._target


class _StepTrend:
    """Seconds of a step as a line over something, older steps forgotten.

    Attributes:
        mean: of that something.
    """

    __slots__ = ("_cross", "_mean_s", "_square", "_weight", "mean")

    def __init__(self) -> None:
        self._weight = self._mean_s = self._square = self._cross = self.mean = 0.0

    def update(self, value: float, step_s: float, passed_s: float) -> None:
        """Take in the mean step of `passed_s` seconds."""
        keep = math.exp(-passed_s / _STEPS_S)
        self._weight = self._weight * keep + passed_s
        share = passed_s / self._weight
        off, off_s = value - self.mean, step_s - self._mean_s
        self.mean += share * off
        self._mean_s += share * off_s
        rest = 1.0 - share
        self._square = rest * (self._square + share * off * off)
        self._cross = rest * (self._cross + share * off * off_s)

    def slowdown(self, here: float, full: float) -> float:
        """Return the step time at `full` over that at `here`; 1 where `full` is no more than that."""
        if not self._weight or not full > here:
            return 1.0
        doubling = self._mean_s / (self.mean + full)
        prior = (_PRIOR_SPREAD * full) ** 2
        slope = max((self._cross + prior * doubling) / (self._square + prior), 0.0)
        step_s = max(self._mean_s + slope * (here - self.mean), 0.1 * self._mean_s)
        return 1.0 + slope * (full - here) / step_s
