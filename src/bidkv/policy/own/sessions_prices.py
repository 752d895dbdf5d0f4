"""What a step costs when contexts are long: a fixed part, a part for each token computed, one for each held.

Reading the KV of long contexts takes a good part of a step. One more running request shares the fixed part
only, so the price of memory needs the three apart, where :class:`bidkv.policy.parts.prices.MachinePrices`
knows two.
"""

from __future__ import annotations

from bidkv.protocol.policy import EngineView

_FORGET = 0.999
_LONGEST_STEP_S = 2.0
"""A longer mean step is a pause of the engine, not a price; in seconds."""
_LEAST_FIXED_S = 1e-4
_LEAST_TOKEN_S = 1e-7
_SMOOTHING_S = 20.0
"""Time over which the memory in use and the step time are smoothed, in seconds: several turns."""
_SCALES = (1.0, 1e3, 1e6)
"""Units of the three unknowns: seconds a step, a thousand computed tokens, a million held tokens."""
_FEWEST_STEPS = 24
"""Steps that one observation covers at least. An engine that schedules ahead counts the tokens of a step one
step before its time has passed; over few steps tokens and time would belong to different steps, and the cost
of tokens would be taken for a fixed one."""
_FIRST = (8e-3, 2e-2, 2e-2)
"""Costs before anything was seen, in `_SCALES`: about those of an 8B model on an H100."""
_FIRST_VARIANCE = (1.0, 1e4, 1e4)
"""How far the first costs may be wrong, as variances in units of the noise of one observation, about 5 ms
squared. The fixed part is right within milliseconds on most machines, but a token may cost 25 times as much.
Means over many steps differ too little to move a first guess that claims to know better."""
_MOST_UNCERTAIN = 1e6
"""Sum of the variances from which nothing more is forgotten: steps that are all alike teach nothing new."""


class StepCosts:
    """Explains a step's time as fixed + token * computed tokens + held * held tokens, by least squares.

    Call :meth:`observe` at every event; it is O(1).

    Attributes:
        fixed_s: seconds of a step that does next to nothing.
        token_s: seconds one more computed token adds.
        held_tokens: smoothed tokens that running requests hold.
        step_s: smoothed seconds of a step.
    """

    __slots__ = (
        "_blocks",
        "_covariance",
        "_held_steps",
        "_mark_s",
        "_mark_steps",
        "_mark_tokens",
        "_seen_s",
        "_seen_steps",
        "_seen_tokens",
        "_timing",
        "_unknowns",
        "fixed_s",
        "held_tokens",
        "step_s",
        "token_s",
    )

    def __init__(self) -> None:
        self.fixed_s, self.token_s = _FIRST[0], _FIRST[1] / _SCALES[1]
        self.step_s = 2 * self.fixed_s
        self.held_tokens = 0.0
        self._unknowns = list(_FIRST)
        self._covariance = [
            [variance if row == column else 0.0 for column in range(3)]
            for row, variance in enumerate(_FIRST_VARIANCE)
        ]
        self._timing = False
        self._mark_s = 0.0
        self._mark_steps = 0
        self._mark_tokens = 0
        self._blocks = 0
        # What the observation that is being made covers so far.
        self._seen_s = self._held_steps = 0.0
        self._seen_steps = self._seen_tokens = 0

    def observe(self, engine: EngineView) -> None:
        """Take in what happened since the last event."""
        now_s, num_steps, num_tokens = engine.now_s, engine.num_steps, engine.num_scheduled_tokens
        blocks = engine.num_blocks - engine.free_blocks
        steps, elapsed_s = num_steps - self._mark_steps, now_s - self._mark_s
        if steps and self._timing and 0.0 < elapsed_s <= _LONGEST_STEP_S * steps:
            # Memory changes within a step at events only, but for growth: the mean of both ends will do.
            held = 0.5 * (blocks + self._blocks) * engine.block_size
            weight = elapsed_s / (elapsed_s + _SMOOTHING_S) if self.held_tokens else 1.0
            self.held_tokens += weight * (held - self.held_tokens)
            self.step_s += weight * (elapsed_s / steps - self.step_s)
            self._seen_s += elapsed_s
            self._seen_steps += steps
            self._seen_tokens += num_tokens - self._mark_tokens
            self._held_steps += held * steps
            if (seen := self._seen_steps) >= _FEWEST_STEPS:
                self._learn(self._seen_tokens / seen, self._held_steps / seen, self._seen_s / seen)
                self._seen_s = self._held_steps = 0.0
                self._seen_steps = self._seen_tokens = 0
        if steps or not engine.num_running:
            self._mark_s, self._mark_steps, self._mark_tokens = now_s, num_steps, num_tokens
        self._blocks = blocks
        self._timing = engine.num_running > 0

    def _learn(self, tokens: float, held: float, step_s: float) -> None:
        x0, x1, x2 = 1.0, tokens / _SCALES[1], held / _SCALES[2]
        (p00, p01, p02), (_, p11, p12), (_, _, p22) = self._covariance
        g0 = p00 * x0 + p01 * x1 + p02 * x2
        g1 = p01 * x0 + p11 * x1 + p12 * x2
        g2 = p02 * x0 + p12 * x1 + p22 * x2
        scale = 1.0 / (_FORGET + x0 * g0 + x1 * g1 + x2 * g2)
        b0, b1, b2 = self._unknowns
        error = (step_s - b0 * x0 - b1 * x1 - b2 * x2) * scale
        b0, b1, b2 = self._unknowns = [b0 + g0 * error, b1 + g1 * error, b2 + g2 * error]
        grow = 1.0 / _FORGET if p00 + p11 + p22 < _MOST_UNCERTAIN else 1.0
        q01, q02, q12 = p01 - g0 * g1 * scale, p02 - g0 * g2 * scale, p12 - g1 * g2 * scale
        self._covariance = [
            [(p00 - g0 * g0 * scale) * grow, q01 * grow, q02 * grow],
            [q01 * grow, (p11 - g1 * g1 * scale) * grow, q12 * grow],
            [q02 * grow, q12 * grow, (p22 - g2 * g2 * scale) * grow],
        ]
        # Estimates may go below what is possible, prices may not.
        self.fixed_s = max(b0, _LEAST_FIXED_S)
        self.token_s = max(b1 / _SCALES[1], _LEAST_TOKEN_S)

    def memory_price(self, held_tokens: float | None = None) -> float:
        """Return what a token of memory is worth, in returns per second (see `Sessions.price`).

        Args:
            held_tokens: tokens that the running requests would hold if each were as large as the one in
                question; None: those that they do hold, smoothed.
        """
        share = self.fixed_s / self.step_s if self.step_s > self.fixed_s else 1.0
        held = self.held_tokens if held_tokens is None else held_tokens
        return share / (max(held, 1.0) * self.token_s)
