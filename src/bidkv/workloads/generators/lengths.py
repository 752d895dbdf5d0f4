"""Endless pairs of (prompt tokens, output tokens), one function for each kind of traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from bidkv.workloads.generators.laws import Lognormal, Quantiles

Lengths = Iterator[tuple[int, int]]

# Printed by `python scripts/fit_lengths.py sharegpt-lengths`: quantiles at 0 %, 5 %, ..., 100 % of the
# shipped rows. It prints how far a lognormal would be off as well, which is why this is a table.
# fmt: off
SHAREGPT_PROMPT = (
    2, 27, 73, 179, 388, 611, 806, 991, 1201, 1496, 1764,
    2115, 2442, 2878, 3323, 3844, 4421, 4920, 5623, 6614, 8018,
)
SHAREGPT_OUTPUT = (
    2, 44, 81, 128, 182, 223, 267, 305, 340, 374, 408,
    446, 487, 529, 575, 618, 676, 747, 828, 914, 1023,
)
# fmt: on


def mixed(
    random: Random,
    *,
    chat_share: float = 0.7,
    chat_prompt_median: float = 180.0,
    chat_prompt_sigma: float = 1.0,
    chat_output_median: float = 220.0,
    chat_output_sigma: float = 0.8,
    document_prompt_median: float = 1600.0,
    document_prompt_sigma: float = 0.5,
    document_output_median: float = 180.0,
    document_output_sigma: float = 0.8,
    max_total_tokens: int = 4096,
) -> Lengths:
    """Chat beside document questions: many small requests, and a minority that holds most of the memory.

    That contrast is what victim selection is about: a tail victim may be either kind. The share and medians
    are chosen so that a cache of 600 blocks of 16 tokens holds about ten requests at once, well under 32
    sequences. The spread of chat is close to the Azure conversation trace (sigma of the logarithm 1.0 for
    prompts and 0.9 for outputs); document outputs have the median and sigma of arXiv summaries (180, 0.8);
    `python scripts/fit_lengths.py azure-conv` and `arxiv-lengths` print both.

    Args:
        random: drawn from.
        chat_share: share of the requests that are chat, from 0 to 1; the others are document questions.
        chat_prompt_median: tokens; likewise the other three medians. Each length is lognormal.
        chat_prompt_sigma: standard deviation of the length's natural logarithm; likewise the other three.
        max_total_tokens: prompt and output of a request together are at most this long.

    Raises:
        ValueError: an argument out of range.
    """
    _check_share("chat_share", chat_share)
    chat = _Pair(chat_prompt_median, chat_prompt_sigma, chat_output_median, chat_output_sigma)
    document = _Pair(
        document_prompt_median, document_prompt_sigma, document_output_median, document_output_sigma
    )
    check_total(max_total_tokens)
    while True:
        kind = chat if random.random() < chat_share else document
        yield kind.draw(random, max_total_tokens)


def _lognormal_lengths(
    name: str,
    prompt_median: float,
    prompt_sigma: float,
    output_median: float,
    output_sigma: float,
    about: str,
) -> Callable[..., Lengths]:
    """Return the kind of traffic `name`: lognormal prompts and outputs, with these defaults."""
    defaults = (prompt_median, prompt_sigma, output_median, output_sigma)

    def lengths(
        random: Random,
        *,
        prompt_median: float = defaults[0],
        prompt_sigma: float = defaults[1],
        output_median: float = defaults[2],
        output_sigma: float = defaults[3],
        max_total_tokens: int = 8192,
    ) -> Lengths:
        pair = _Pair(prompt_median, prompt_sigma, output_median, output_sigma)
        check_total(max_total_tokens)
        while True:
            yield pair.draw(random, max_total_tokens)

    lengths.__name__ = lengths.__qualname__ = name
    lengths.__doc__ = about
    return lengths


long_context = _lognormal_lengths(
    "long_context",
    3000.0,
    0.6,
    250.0,
    0.7,
    """Long documents, moderate answers: two or three requests fill a cache of 600 blocks of 16 tokens.

    The prompt median is near that of arXiv summarization (2,700 of at most 4,096 tokens), with a tail to
    twice the length; every request fits that cache alone.
    """,
)
code_completion = _lognormal_lengths(
    "code_completion",
    1500.0,
    0.9,
    13.0,
    1.0,
    """Much context, a few tokens of answer: memory is held briefly, so victims hardly matter.

    The medians are those Splitwise (Patel et al., ISCA 2024) reports of a coding service; the spread is
    assumed.
    """,
)
reasoning = _lognormal_lengths(
    "reasoning",
    250.0,
    0.8,
    1500.0,
    0.7,
    """Short questions, long trains of thought: memory is taken while running, not at admission.

    Assumed, not fitted: the case in which admitting by prompt length alone is most wrong.
    """,
)


def sharegpt_like(random: Random, *, max_total_tokens: int = 8192) -> Lengths:
    """Conversations of people with a chat model, by the quantiles of ShareGPT lengths.

    Prompts (the conversation so far) and outputs are drawn independently: the correlation of their logarithms
    is under 0.1. Pairs over `max_total_tokens` are drawn again.
    """
    check_total(max_total_tokens)
    prompts, outputs = Quantiles(SHAREGPT_PROMPT), Quantiles(SHAREGPT_OUTPUT)
    while True:
        prompt, output = prompts.draw(random), outputs.draw(random)
        if prompt + output <= max_total_tokens:
            yield prompt, output


def uniform(
    random: Random,
    *,
    prompt_low: int = 1,
    prompt_high: int = 512,
    output_low: int = 1,
    output_high: int = 512,
) -> Lengths:
    """Independent uniform laws U(prompt_low, prompt_high) x U(output_low, output_high), bounds included.

    The laws queueing theory has closed forms for.
    """
    for name, low, high in (("prompt", prompt_low, prompt_high), ("output", output_low, output_high)):
        check_count(f"{name}_low", low, 1, 100_000_000)
        check_count(f"{name}_high", high, low, 100_000_000)
    while True:
        yield random.randint(prompt_low, prompt_high), random.randint(output_low, output_high)


class _Pair:
    """A lognormal prompt and a lognormal output that fit one bound together."""

    def __init__(
        self, prompt_median: float, prompt_sigma: float, output_median: float, output_sigma: float
    ) -> None:
        self._prompt = Lognormal(prompt_median, prompt_sigma, low=8)
        self._output = Lognormal(output_median, output_sigma, low=4)

    def draw(self, random: Random, max_total_tokens: int) -> tuple[int, int]:
        prompt = self._prompt.draw(random, max_total_tokens - self._output.low)
        return prompt, self._output.draw(random, max_total_tokens - prompt)


def check_total(max_total_tokens: int) -> None:
    """Raise ValueError unless a request of `max_total_tokens` prompt and output tokens makes sense."""
    check_count("max_total_tokens", max_total_tokens, 64, 100_000_000)


def check_count(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _check_share(name: str, share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{name} must be from 0 to 1, not {share!r}")
