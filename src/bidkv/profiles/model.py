"""The step-time formula: the slower of what the host must do and what the GPU must do.

A step of a serving engine is bounded either by its host (Python, kernel launches) or by its GPU, so its
time is the larger of two cost lines, not their sum. Which lines apply depends on how the engine launches:

* ``decode``: one token each from some requests, replayed as one full CUDA graph;
* ``graph``: a batch with prefill that still fits a captured (piecewise) CUDA graph;
* ``eager``: a batch larger than the largest captured graph, launched kernel by kernel.

A batch that runs in a CUDA graph is padded to the next captured size (1, 2, 4, then multiples of 8, above 256
of 16: vLLM's default list), so there the cost per token counts padded tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

_DENSE_SIZES_UP_TO = 256  # captured sizes are multiples of 8 up to here, of 16 above (vLLM's default list)


def padded_tokens(tokens: int) -> int:
    """The captured CUDA-graph size that a batch of `tokens` is padded to, without regard to the largest one.

    >>> [padded_tokens(n) for n in (0, 1, 3, 5, 9, 250, 257)]
    [0, 1, 4, 8, 16, 256, 272]
    """
    if tokens <= 2:
        return tokens
    if tokens <= 4:
        return 4
    stride = 8 if tokens <= _DENSE_SIZES_UP_TO else 16
    return -(-tokens // stride) * stride


@dataclass(frozen=True, slots=True)
class CostLine:
    """Seconds of one part of a step, linear in what the step holds; every coefficient is in seconds.

    Attributes:
        base_s: per step.
        per_token_s: per scheduled token; padded to the captured size where a CUDA graph runs.
        per_decode_s: per request that decodes.
        per_context_token_s: per token resident of the scheduled requests.
        per_attention_s: per unit of prefill attention, see :meth:`StepTimeProfile.step_s`.
        per_prefill_s: per request that prefills.
        history_s: once, in a step with prefill that also reads context computed before it.
    """

    base_s: float = 0.0
    per_token_s: float = 0.0
    per_decode_s: float = 0.0
    per_context_token_s: float = 0.0
    per_attention_s: float = 0.0
    per_prefill_s: float = 0.0
    history_s: float = 0.0

    def decode_s(self, tokens: int, decodes: int) -> float:
        """Seconds of a step of `decodes` requests padded to `tokens`, without its part per context token."""
        return self.base_s + self.per_token_s * tokens + self.per_decode_s * decodes

    def prefill_s(self, tokens: int, attention: float, decodes: int, context: int, prefills: int) -> float:
        """Seconds of a step with prefill, :attr:`history_s` left out; `tokens` are padded by the caller."""
        return (
            self.base_s
            + self.per_token_s * tokens
            + self.per_decode_s * decodes
            + self.per_context_token_s * context
            + self.per_attention_s * attention
            + self.per_prefill_s * prefills
        )

    def as_tuple(self) -> tuple[float, ...]:
        """The seven coefficients in the order of the attributes."""
        return (
            self.base_s,
            self.per_token_s,
            self.per_decode_s,
            self.per_context_token_s,
            self.per_attention_s,
            self.per_prefill_s,
            self.history_s,
        )


@dataclass(frozen=True, slots=True)
class Regime:
    """How long a step takes when it is launched in one way: the larger of `host` and `gpu`."""

    host: CostLine
    gpu: CostLine


@dataclass(frozen=True, slots=True)
class StepTimeProfile:
    """How long a step of one engine on one GPU takes.

    Attributes:
        name: what reports call it.
        kind: "fitted" (to recorded steps) or "analytic" (computed from data sheets, never measured).
        decode: steps without prefill that run as one CUDA graph.
        graph: steps with prefill that run in a captured graph.
        eager: steps of more tokens than the largest captured graph.
        empty_step_s: seconds of a step that schedules nothing.
        graph_max_tokens: the largest captured graph, in tokens; 0 when the engine captures none.
        prefill_graphs: whether steps with prefill run in captured graphs at all (False with compilation off).
        notes: where the figures come from, for people.
        num_gpu_blocks: KV blocks of 16 tokens that fit on the GPU beside the weights; None when unknown.
    """

    name: str
    kind: str
    decode: Regime
    graph: Regime
    eager: Regime
    empty_step_s: float
    graph_max_tokens: int = 512
    prefill_graphs: bool = True
    notes: str = ""
    num_gpu_blocks: int | None = None
    _decode_lines: tuple[tuple[float, float, float, float], ...] = field(
        init=False, repr=False, compare=False
    )
    _padded: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _prefill_limit: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = tuple(min(padded_tokens(n), self.graph_max_tokens) for n in range(self.graph_max_tokens + 1))
        object.__setattr__(self, "_padded", sizes)
        object.__setattr__(self, "_prefill_limit", self.graph_max_tokens if self.prefill_graphs else 0)
        object.__setattr__(self, "_decode_lines", tuple(self._lines(n) for n in range(len(sizes))))

    def _lines(self, requests: int) -> tuple[float, float, float, float]:
        """Host constant and slope over context, GPU constant and slope, of a decode step of `requests`."""
        in_graph = requests <= self.graph_max_tokens
        regime = self.decode if in_graph else self.eager
        tokens = self._padded[requests] if in_graph else requests
        return (
            regime.host.decode_s(tokens, requests),
            regime.host.per_context_token_s,
            regime.gpu.decode_s(tokens, requests),
            regime.gpu.per_context_token_s,
        )

    def step_s(
        self,
        prefill_tokens: int,
        prefill_attention: float,
        decode_requests: int,
        context_tokens: int,
        num_prefills: int = 0,
    ) -> float:
        """Seconds of one step.

        Args:
            prefill_tokens: tokens scheduled for requests that still prefill (recompute included).
            prefill_attention: query-key pairs of those tokens: the sum over prefill chunks of
                ``chunk * (tokens computed before + chunk / 2)``.
            decode_requests: requests that decode one token.
            context_tokens: tokens resident of all scheduled requests, those of this step included.
            num_prefills: requests that prefill in this step.
        """
        if prefill_tokens == 0:
            if decode_requests == 0:
                return self.empty_step_s
            lines = self._decode_lines
            host, host_slope, gpu, gpu_slope = (
                lines[decode_requests] if decode_requests < len(lines) else self._lines(decode_requests)
            )
            host += host_slope * context_tokens
            gpu += gpu_slope * context_tokens
            return gpu if gpu > host else host
        tokens = prefill_tokens + decode_requests
        if tokens <= self._prefill_limit:
            regime, launched = self.graph, self._padded[tokens]
        else:
            regime, launched = self.eager, tokens
        batch = (launched, prefill_attention, decode_requests, context_tokens, num_prefills)
        host, gpu = regime.host.prefill_s(*batch), regime.gpu.prefill_s(*batch)
        if context_tokens > tokens:
            host += regime.host.history_s
            gpu += regime.gpu.history_s
        return gpu if gpu > host else host

    def for_engine(self, max_num_seqs: int, max_num_batched_tokens: int) -> StepTimeProfile:
        """This profile with the CUDA graphs that vLLM captures by default for such an engine.

        vLLM captures up to ``min(2 * max_num_seqs, 512)`` tokens and never more than a step may hold: with
        few sequences, mid-sized prefill steps fall out of the graphs and are bounded by the host. A profile
        without graphs stays as it is.
        """
        limit = min(2 * max_num_seqs, 512, max_num_batched_tokens)
        while padded_tokens(limit) > limit:  # down to a size that is captured
            limit -= 1
        if self.graph_max_tokens in (0, limit):
            return self
        return replace(self, graph_max_tokens=limit)

    def coefficients(self) -> tuple[float, ...]:
        """All 42 coefficients, for a compiled kernel.

        Ordered (decode, graph, eager) x (host, gpu) x :meth:`CostLine.as_tuple`.
        """
        return tuple(
            value
            for regime in (self.decode, self.graph, self.eager)
            for line in (regime.host, regime.gpu)
            for value in line.as_tuple()
        )

    def decode_lines(self, max_requests: int) -> tuple[tuple[float, float, float, float], ...]:
        """By decoding requests, 0 to `max_requests`: host seconds, slope per context token; the GPU's two."""
        return tuple(self._lines(requests) for requests in range(max_requests + 1))

    @property
    def padded(self) -> tuple[int, ...]:
        """Padded size by batch size, for 0 to `graph_max_tokens` tokens."""
        return self._padded

    @property
    def prefill_graph_max_tokens(self) -> int:
        """Steps with prefill of more tokens than this are in the `eager` regime; 0 when all are."""
        return self._prefill_limit
