"""Prices learned from the engine itself: what a step costs, what a token costs, how much one request holds.

No profile is needed: between two events an engine tells how much time went by, how many steps it ran and how
many tokens it computed. Time is explained as `step_s * steps + token_s * tokens` by recursive least squares
with forgetting, so the prices follow the machine.
"""

from __future__ import annotations

from bidkv.protocol.policy import EngineView

_FORGET = 0.999
_LONGEST_STEP_S = 2.0
"""A longer gap per step is a pause of the engine (idle, start-up), not a price."""
_FIRST_STEP_S = 0.01
_FIRST_TOKEN_S = 2e-5
_FOOTPRINT_WEIGHT = 0.02
_RECENT_WEIGHT = 0.02
_MOST_UNCERTAIN = 100.0
_LEAST_S = 1e-5


class MachinePrices:
    """Seconds per step and per token, the recent step time, and the share of memory one request holds.

    Call :meth:`observe` at every event; it is O(1).

    Attributes:
        step_s: fixed seconds of a step.
        token_s: seconds one more computed token adds.
        recent_step_s: smoothed seconds of a whole step.
        footprint: smoothed share of all blocks held per running request; 0 before anything ran.
    """

    __slots__ = (
        "_covariance",
        "_ktoken_s",
        "_mark_s",
        "_mark_steps",
        "_mark_tokens",
        "_step_s",
        "_timing",
        "footprint",
        "recent_step_s",
        "step_s",
        "token_s",
    )

    def __init__(self) -> None:
        self.recent_step_s = _FIRST_STEP_S
        self.footprint = 0.0
        self._step_s = _FIRST_STEP_S
        self._ktoken_s = 1e3 * _FIRST_TOKEN_S  # seconds per 1,000 tokens: both unknowns of a size
        self.step_s = self._step_s
        self.token_s = self._ktoken_s * 1e-3
        self._covariance = (1.0, 0.0, 1.0)
        self._timing = False
        self._mark_s = 0.0
        self._mark_steps = 0
        self._mark_tokens = 0

    def observe(self, engine: EngineView) -> None:
        """Take in what happened since the last event."""
        # Called at every finish: each figure is read once.
        running, now_s, num_steps = engine.num_running, engine.now_s, engine.num_steps
        if running:
            num_blocks = engine.num_blocks
            share = (num_blocks - engine.free_blocks) / (running * num_blocks)
            footprint = self.footprint
            self.footprint = footprint + (_FOOTPRINT_WEIGHT if footprint else 1.0) * (share - footprint)
        steps = num_steps - self._mark_steps
        if steps or not running:
            num_tokens = engine.num_scheduled_tokens
            elapsed_s = now_s - self._mark_s
            if steps and self._timing and 0.0 < elapsed_s <= _LONGEST_STEP_S * steps:
                self._learn((num_tokens - self._mark_tokens) / steps, elapsed_s / steps)
            self._mark_s, self._mark_steps, self._mark_tokens = now_s, num_steps, num_tokens
        # Nothing runs: the time until the next event is not the machine's.
        self._timing = running > 0

    def _learn(self, tokens_per_step: float, step_s: float) -> None:
        """One step of recursive least squares on step_s = fixed + per_ktoken * ktokens."""
        self.recent_step_s += _RECENT_WEIGHT * (step_s - self.recent_step_s)
        x = tokens_per_step * 1e-3
        fixed_s, ktoken_s = self._step_s, self._ktoken_s
        p00, p01, p11 = self._covariance
        g0, g1 = p00 + p01 * x, p01 + p11 * x
        scale = 1.0 / (_FORGET + g0 + g1 * x)
        error = step_s - (fixed_s + ktoken_s * x)
        k0, k1 = g0 * scale, g1 * scale
        self._step_s = fixed_s = fixed_s + k0 * error
        self._ktoken_s = ktoken_s = ktoken_s + k1 * error
        # Estimates may go below what is possible, prices may not.
        self.step_s = fixed_s if fixed_s > _LEAST_S else _LEAST_S
        self.token_s = ktoken_s * 1e-3 if ktoken_s > 0.0 else 0.0
        # The cap keeps the estimate alert without blowing up while every step looks alike.
        grow = 1.0 / _FORGET if p00 + p11 < _MOST_UNCERTAIN else 1.0
        self._covariance = (
            (p00 - g0 * g0 * scale) * grow,
            (p01 - g0 * g1 * scale) * grow,
            (p11 - g1 * g1 * scale) * grow,
        )
