"""The session rate that a replica sustains, in closed form, under the engine's order and under `sessions`.

Between two turns a session's KV lies in the prefix cache. Under the engine's order the cache is reused least
recently used first, so a past survives its gap while the gap is shorter than the time T in which the cache
turns over once (Che, Tung and Wang's characteristic time, IEEE JSAC 20(7), 2002). With r sessions a second,
T follows from memory: what runs, what waits for its next turn for at most T, and what ended less than T ago
fill it,

    N * c + r * (H(T) + T * final context) + shared = memory.

A shorter T costs machine time, since lost pasts are computed again. A saturated engine runs steps of B
tokens, of which N decode: with F(T) prompt tokens computed and O tokens answered per session,
N = B * O / (F + O), at most what max_num_seqs and memory allow, and r = N / (O * t), t being the time of such
a step. The sustainable rate is the one at which both agree. Above it the queue grows, gaps grow by the wait,
and the cache turns over before any session returns: the rate falls to `SessionRates.collapsed`.

`sessions` holds a session as a whole or not at all, forgets ended ones at once, and admits what fits. It
keeps a context through its gap for at most the time h that pays most:

    r = max over h of min(N / (O * t(h)), (memory - shared) / (H(h) + residence)),

with residence the token seconds of a session's own turns while they run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bidkv.planning.session_traffic import SessionTraffic
from bidkv.profiles import StepTimeProfile
from bidkv.stability import ReplicaShape
from bidkv.stability.step_mix import StepTime

_HALVINGS = 40
_LONGEST_S = 1e5
_QUANTILES = 24

_RUNNING_SHARE = 0.95
"""Share of memory that running requests fill at most; the rest is the free end of what fits."""

_SEEN_GROWTH = 0.1
_SEEN_DEVIATIONS = 2.0
"""What `find_knee` calls growth."""

_PREFILL_CONTEXT = 0.8
"""Mean context that a computed token attends to, in units of a decoding turn's: pasts come first."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """A saturated replica that keeps pasts for some time.

    Attributes:
        rate: sessions per second.
        running: decoding turns in a step.
        step_s: seconds of a step.
        keep_s: how long a past is kept.
        cached_share: share of prompt tokens found in the cache.
    """

    rate: float
    running: float
    step_s: float
    keep_s: float
    cached_share: float


@dataclass(frozen=True, slots=True)
class SessionOption:
    """A change of the replica, and what it sustains after it.

    Attributes:
        name: what changes.
        own: sessions per second under the engine's order.
        kept: sessions per second under the policy `sessions`.
    """

    name: str
    own: float
    kept: float


@dataclass(frozen=True, slots=True)
class SessionRates:
    """What a replica sustains with sessions like these.

    Attributes:
        own: under the engine's order.
        kept: under the policy `sessions`.
        collapsed: under the engine's order once every past is lost.
        all_cached: were memory endless.
        resident_sessions: sessions whose mean context fits into memory.
        options: changes of the replica.
    """

    own: Saturation
    kept: Saturation
    collapsed: float
    all_cached: float
    resident_sessions: float
    options: tuple[SessionOption, ...]


class SessionReplica:
    """A replica that serves sessions with prefix caching.

    Args:
        traffic: the sessions.
        shape: memory and limits of the replica.
        step_time: seconds of a step, for instance a profile's `step_s`.
    """

    def __init__(self, traffic: SessionTraffic, shape: ReplicaShape, step_time: StepTime) -> None:
        self.traffic = traffic
        self.shape = shape
        self._step_time = step_time
        self._room = max(shape.memory_tokens - traffic.shared_tokens, 1.0)

    def saturated(self, keep_s: float) -> Saturation:
        """Return the replica at its most sessions a second, whether or not memory can hold so many pasts.

        Args:
            keep_s: seconds that a past is kept after its turn.
        """
        traffic, budget = self.traffic, self.shape.max_num_batched_tokens
        computed, answered = traffic.computed_tokens(keep_s), traffic.output_tokens
        context = max(traffic.decode_context, 1.0)
        most = min(float(self.shape.max_num_seqs), max(_RUNNING_SHARE * self._room / context, 1.0))
        running = min(budget * answered / (computed + answered), most)
        prefill = running * computed / answered
        prompts = max(1, round(prefill * traffic.turns / computed))
        step_s = self._step_time(
            round(prefill),
            prefill * _PREFILL_CONTEXT * traffic.whole_context,
            max(round(running), 1),
            round(running * traffic.whole_context + prefill),
            prompts,
        )
        return Saturation(
            running / (step_s * answered), running, step_s, keep_s, traffic.cached_share(keep_s)
        )

    def turnover_s(self, rate: float, running: float) -> float:
        """Return for how many seconds the engine's cache keeps what is not used: until all memory was used.

        Args:
            rate: sessions per second.
            running: decoding turns, whose contexts hold memory meanwhile.
        """
        traffic = self.traffic
        room = max(self._room - running * traffic.decode_context, 0.0)

        def used(keep_s: float) -> float:
            return rate * (traffic.held_token_s(keep_s) + keep_s * traffic.final_context)

        low, high = 0.0, _LONGEST_S
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if used(middle) > room else (middle, high)
        return low

    def session_s(self, at: Saturation, rate: float) -> float:
        """Return the mean seconds of a session, gaps included.

        The steps of a second hold what arrives in it: the longer a step, the more of both.

        Args:
            at: the saturated replica.
            rate: sessions per second, below that of `at`.
        """
        traffic = self.traffic
        computed = traffic.computed_tokens(at.keep_s)
        step_s = at.step_s
        for _ in range(_HALVINGS):
            running = rate * traffic.output_tokens * step_s
            prefill = rate * computed * step_s
            following = self._step_time(
                round(prefill),
                prefill * _PREFILL_CONTEXT * traffic.whole_context,
                max(round(running), 1),
                round(running * traffic.whole_context + prefill),
                1 if prefill >= 1.0 else 0,
            )
            step_s = 0.5 * (step_s + min(following, at.step_s))
        chunks = computed / max(self.shape.max_num_batched_tokens - at.running, 1.0) + traffic.turns
        load = min(rate / at.rate, 0.99)
        # A turn's prompt waits for those before it (M/M/1 in prompts), and takes its own steps.
        prompts_s = chunks * at.step_s * load / (1.0 - load) + chunks * step_s
        return traffic.gaps_s + prompts_s + traffic.output_tokens * step_s

    def own(self) -> Saturation:
        """Return the saturated replica under the engine's order: memory turns over as fast as it is used."""
        low, high = math.log(1e-6), math.log(1e4)
        found = self.saturated(0.0)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rate = math.exp(middle)
            keep_s = self.turnover_s(rate, self.saturated(_LONGEST_S).running)
            for _ in range(2):
                found = self.saturated(keep_s)
                keep_s = self.turnover_s(rate, found.running)
            found = self.saturated(keep_s)
            low, high = (middle, high) if rate < found.rate else (low, middle)
        return replace(found, rate=math.exp(low))

    def kept(self) -> Saturation:
        """Return the saturated replica under the policy `sessions`: pasts are kept as long as gains most."""
        best = self.saturated(0.0)
        for keep_s in (0.0, *self.traffic.gap_quantiles(_QUANTILES)):
            full = self.saturated(keep_s)
            # Held by a session between its turns, and while they run.
            held = self.traffic.held_token_s(keep_s)
            residence = full.running * self.traffic.decode_context / full.rate
            rate = min(full.rate, _RUNNING_SHARE * self._room / (held + residence))
            if rate > best.rate:
                best = replace(full, rate=rate)
        return best


def visible_growth_rate(rate: float, window_s: float) -> float:
    """Return the session rate at which a simulation of `window_s` sees the queue grow.

    :func:`bidkv.tournament.knee.find_knee` calls a queue growing when more than a tenth of the sessions that
    start in the second half stay behind, and more than two standard deviations of their number. It finds so
    much more than the rate at which nothing stays behind.

    Args:
        rate: the sustainable rate, sessions per second.
        window_s: seconds in which sessions start.
    """
    found = rate
    for _ in range(_HALVINGS):
        number = max(found * window_s / 2.0, 5.0)
        found = rate / (1.0 - max(_SEEN_GROWTH, _SEEN_DEVIATIONS / math.sqrt(number)))
    return found


def session_rates(
    traffic: SessionTraffic,
    shape: ReplicaShape,
    profile: StepTimeProfile,
    *,
    offload_tokens: int | None = None,
) -> SessionRates:
    """Return what a replica sustains with sessions, and what changes would buy.

    Args:
        traffic: the sessions.
        shape: the replica.
        profile: its step times.
        offload_tokens: KV tokens of host memory that are priced as a change; None is four times the GPU's.
            Loading from there is taken to cost nothing, so it is the most that offloading buys.
    """
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s
    now = SessionReplica(traffic, shape, step_time)
    extra = 4 * shape.memory_tokens if offload_tokens is None else offload_tokens
    options = []
    for name, blocks in (
        ("half as much memory again for KV", shape.num_blocks * 3 // 2),
        ("twice the memory for KV (values of half the bits)", 2 * shape.num_blocks),
        (f"{extra:,} tokens of KV offloaded to the host", shape.num_blocks + extra // shape.block_size),
    ):
        after = SessionReplica(traffic, replace(shape, num_blocks=blocks), step_time)
        options.append(SessionOption(name, after.own().rate, after.kept().rate))
    own, kept = now.own(), now.kept()
    options.append(SessionOption("a second replica, sessions kept on one", 2 * own.rate, 2 * kept.rate))
    context = max(traffic.decode_context, 1.0)
    return SessionRates(
        own=own,
        kept=kept,
        collapsed=now.saturated(0.0).rate,
        all_cached=now.saturated(_LONGEST_S).rate,
        resident_sessions=(shape.memory_tokens - traffic.shared_tokens) / context,
        options=tuple(options),
    )
