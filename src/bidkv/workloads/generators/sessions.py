"""Sessions by name: tool-using agents, chats, rollouts of reinforcement learning, and agents beside requests.

Each function states where its defaults come from. The sources are

- *TraceLab* (arXiv 2606.30560), 4,265 coding-agent sessions of 43 developers; its published tables give 15
  tool-triggered steps a session at the median, 135 at p90 and 1,107 at p99, tool calls of 0.3 s at the median
  and 13.6 s at p90, and waits for the user of 1.4 min at the median and 20.6 min at p90;
- *AIPerf* 0.13, the defaults of `aiperf synthesize agentic-code`;
- *WildChat* (Zhao et al., ICLR 2024), table 2, which also describes ShareGPT;
- *DAPO* (Yu et al., 2025), the settings of its training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain, count
from random import Random

from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads.generators.gaps import GapLaw
from bidkv.workloads.generators.laws import Lognormal
from bidkv.workloads.generators.lengths import check_count
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

MAX_TURNS = 100_000
"""Most turns of one session; far above the longest session published (a few thousand)."""


def agents(
    random: Random,
    *,
    turns_median: float = 16.0,
    turns_sigma: float = 1.81,
    shared_tokens: int = 2560,
    group_tokens: int = 1536,
    groups: int = 12,
    group_zipf: float = 1.2,
    first_median: float = 2500.0,
    first_sigma: float = 0.97,
    new_median: float = 500.0,
    new_sigma: float = 1.18,
    output_median: float = 300.0,
    output_sigma: float = 1.01,
    tool_gap_median_s: float = 0.3,
    tool_gap_sigma: float = 2.98,
    human_share: float = 0.0,
    human_gap_median_s: float = 84.0,
    human_gap_sigma: float = 2.1,
    max_gap_s: float = 600.0,
    gap_shrink: float = 0.0,
    end_base: float = 0.0,
    end_scale: float = 1.0,
    max_context_tokens: int = 28_000,
    compact_to: float = 0.0,
) -> Iterator[Session]:
    """Yield tool loops: every turn adds a tool's result to the context, and the answer calls the next tool.

    Args:
        random: the only source of chance.
        turns_median: turns of a session; with `turns_sigma` a lognormal law. 16 and 1.81 give 16, 163 and
            1,080 turns at p50, p90 and p99 (TraceLab: 16, 152 and 1,236, user-started steps included).
            Sessions of that length meet the context limit first.
        turns_sigma: see `turns_median`.
        shared_tokens: leading tokens that all sessions share (tools, system prompt), a multiple of 512.
            AIPerf: 32,000 under a window of 200,000; the default is scaled down to `max_context_tokens`.
        group_tokens: tokens that the sessions of one group share after those, a multiple of 512 (a
            repository's instructions). AIPerf: 20,000, scaled down likewise.
        groups: number of groups. AIPerf: 50, for more sessions than a simulation has.
        group_zipf: exponent of the Zipf law by which sessions choose their group (AIPerf: 1.2).
        first_median: tokens of the first prompt that belong to the session alone (AIPerf: 5,000, scaled
            down).
        first_sigma: spread of those; AIPerf's mean is 1.6 to 2 times its median, which is 0.97 to 1.18.
        new_median: tokens a later turn adds. TraceLab: 710 to 790 at the median with the previous answer
            counted in, p90 4.5 times that.
        new_sigma: spread of those (AIPerf: 1.15).
        output_median: tokens of an answer (AIPerf: 300 at the median, 500 on average; TraceLab: 523 on
            average).
        output_sigma: spread of those (AIPerf: 1.01).
        tool_gap_median_s: seconds a tool takes; 0.3 and 2.98 match TraceLab's p50 and p90 (AIPerf: 1.8 and
            0.81).
        tool_gap_sigma: see `tool_gap_median_s`.
        human_share: share of the gaps that a user fills. TraceLab: 0.10; AIPerf: 0.3; none by default, as a
            loop runs without its user.
        human_gap_median_s: seconds a user takes; 84 and 2.1 match TraceLab's p50 and p90 (AIPerf: 25 and
            0.97).
        human_gap_sigma: see `human_gap_median_s`.
        max_gap_s: longest gap of either kind; longer ones count as this long.
        gap_shrink: a gap is multiplied by 1 - gap_shrink * (context / max_context_tokens), never by less than
            0.2. AIPerf: 0.8.
        end_base: probability that the session ends before a turn; grows with the context, see `end_scale`.
            AIPerf: 0.02, instead of a law of turns.
        end_scale: what multiplies `end_base` when the context is full (AIPerf: 2).
        max_context_tokens: the context window; fits a model of 32,768 tokens. A turn that would exceed it
            ends the session, or is preceded by a compaction.
        compact_to: a full context is rewritten to this share of the window (its beginning is kept, the rest
            replaced by a summary), and the session goes on. 0 ends the session instead.

    Raises:
        ValueError: a parameter out of range.
    """
    _check_multiple("shared_tokens", shared_tokens)
    _check_multiple("group_tokens", group_tokens)
    check_count("groups", groups, 1, 10_000)
    _check_shares(human_share=human_share, gap_shrink=gap_shrink, end_base=end_base, compact_to=compact_to)
    prefix = shared_tokens + group_tokens
    check_count("max_context_tokens", max_context_tokens, prefix + 1024, 100_000_000)
    turns = Lognormal(turns_median, turns_sigma)
    loop = _Loop(
        first=Lognormal(first_median, first_sigma, low=16),
        new=Lognormal(new_median, new_sigma, low=8),
        output=Lognormal(output_median, output_sigma, low=8),
        tool_gap=GapLaw(tool_gap_median_s, tool_gap_sigma, max_gap_s),
        human_gap=GapLaw(min(human_gap_median_s, max_gap_s), human_gap_sigma, max_gap_s),
        human_share=human_share,
        gap_shrink=gap_shrink,
        end_base=end_base,
        end_scale=end_scale,
        window=max_context_tokens,
        compact_to=compact_to,
    )
    shared = prefix // HASH_CHUNK_TOKENS
    fresh_ids = count(
        groups * shared
    )  # every group owns its whole shared prefix's ids, the common ones twice
    common = shared_tokens // HASH_CHUNK_TOKENS
    chances = list(accumulate(1.0 / rank**group_zipf for rank in range(1, groups + 1)))
    for index in count():
        group = random.choices(range(groups), cum_weights=chances)[0]
        ids = [*range(common), *range(group * shared + common, (group + 1) * shared)]
        session = loop.run(random, f"s{index}", prefix, ids, fresh_ids, turns.draw(random, MAX_TURNS))
        yield replace(session, agent_id=f"group-{group}") if groups > 1 else session


def chat_sessions(
    random: Random,
    *,
    mean_turns: float = 3.5,
    system_tokens: int = 512,
    user_median: float = 57.0,
    user_sigma: float = 1.0,
    output_median: float = 253.0,
    output_sigma: float = 0.8,
    gap_median_s: float = 25.0,
    gap_sigma: float = 0.97,
    max_gap_s: float = 600.0,
    max_context_tokens: int = 8192,
) -> Iterator[Session]:
    """Yield conversations of people: short messages, longer answers, and time to read and type.

    Args:
        random: the only source of chance.
        mean_turns: mean of the geometric number of turns (ShareGPT: 3.51 by WildChat's table).
        system_tokens: leading tokens that all sessions share, a multiple of 512 (assumed).
        user_median: tokens of a message. ShareGPT's mean is 94; with the assumed sigma of 1 the median is 57.
        user_sigma: spread of those, close to the chat part of the Azure conversation trace.
        output_median: tokens of an answer. ShareGPT's mean is 348; with a sigma of 0.8 the median is 253.
        output_sigma: spread of those, as in the Azure conversation trace.
        gap_median_s: seconds a person takes (AIPerf's human delay: 25 at the median, 40 on average).
        gap_sigma: spread of those, from the same two figures.
        max_gap_s: longest gap; longer ones count as this long.
        max_context_tokens: a turn that would exceed this context ends the session.
    """
    _check_multiple("system_tokens", system_tokens)
    check_count("max_context_tokens", max_context_tokens, system_tokens + 256, 100_000_000)
    _check_mean_turns(mean_turns)
    human = GapLaw(gap_median_s, gap_sigma, max_gap_s)
    user = Lognormal(user_median, user_sigma, low=4)
    loop = _Loop(
        first=user,
        new=user,
        output=Lognormal(output_median, output_sigma, low=4),
        tool_gap=human,
        human_gap=human,
        human_share=1.0,
        window=max_context_tokens,
    )
    shared = system_tokens // HASH_CHUNK_TOKENS
    fresh_ids = count(shared)
    for index in count():
        turns = _draw_turns(random, mean_turns)
        yield loop.run(random, f"s{index}", system_tokens, list(range(shared)), fresh_ids, turns)


def rollouts(
    random: Random,
    *,
    samples: int = 16,
    prompt_median: float = 200.0,
    prompt_sigma: float = 0.8,
    output_median: float = 3000.0,
    output_sigma: float = 0.9,
    max_output_tokens: int = 16_384,
    mean_turns: float = 1.0,
    new_median: float = 300.0,
    new_sigma: float = 1.0,
    tool_gap_median_s: float = 0.3,
    tool_gap_sigma: float = 1.5,
    max_gap_s: float = 60.0,
    max_context_tokens: int = 32_768,
) -> Iterator[Session]:
    """Yield rollouts of reinforcement learning: groups of samples of one prompt, all there from the start.

    Args:
        random: the only source of chance.
        samples: sessions that share one prompt (DAPO: 16 responses for each prompt).
        prompt_median: tokens of a prompt (mathematics questions; assumed).
        prompt_sigma: spread of those.
        output_median: tokens of an answer: long trains of thought, most of them far from the cap (assumed).
        output_sigma: spread of those.
        max_output_tokens: cap on the tokens a rollout generates in one turn (DAPO: an expected maximum length
            of 16,384).
        mean_turns: mean of the geometric number of turns; above 1 for agents that call tools while they are
            trained.
        new_median: tokens a tool's result adds.
        new_sigma: spread of those.
        tool_gap_median_s: seconds a tool takes (sandboxes beside the trainer; assumed, quicker than
            TraceLab's).
        tool_gap_sigma: spread of those.
        max_gap_s: longest gap.
        max_context_tokens: a turn that would exceed this context ends the session.
    """
    check_count("samples", samples, 1, 10_000)
    check_count("max_output_tokens", max_output_tokens, 8, 100_000_000)
    check_count("max_context_tokens", max_context_tokens, 1024, 100_000_000)
    _check_mean_turns(mean_turns)
    tool = GapLaw(tool_gap_median_s, tool_gap_sigma, max_gap_s)
    prompts = Lognormal(prompt_median, prompt_sigma, low=16)
    loop = _Loop(
        first=prompts,
        new=Lognormal(new_median, new_sigma, low=8),
        output=Lognormal(output_median, output_sigma, low=8),
        tool_gap=tool,
        human_gap=tool,
        window=max_context_tokens,
        max_output=max_output_tokens,
    )
    fresh_ids = count()
    for group in count():
        prompt = prompts.draw(random, max_context_tokens // 2)
        ids = [next(fresh_ids) for _ in range(-(-prompt // HASH_CHUNK_TOKENS))]
        for sample in range(samples):
            turns = _draw_turns(random, mean_turns)
            yield loop.follow(random, f"p{group}-{sample}", prompt, ids, turns)


def mixed_sessions(
    random: Random,
    *,
    single_share: float = 0.7,
    single_prompt_median: float = 766.0,
    single_prompt_sigma: float = 0.97,
    single_output_median: float = 193.0,
    single_output_sigma: float = 0.91,
    **agent_params: float,
) -> Iterator[Session]:
    """Yield agents beside single requests, which are sessions of one turn.

    Args:
        random: the only source of chance.
        single_share: share of the sessions that are single requests (assumed: an agent's session is many
            requests, so most requests are still agents').
        single_prompt_median: tokens of a single prompt; this and the next three are the lognormal fit of the
            Azure conversation trace that `python scripts/fit_lengths.py azure-conv` prints.
        single_prompt_sigma: spread of those.
        single_output_median: tokens of a single answer.
        single_output_sigma: spread of those.
        agent_params: parameters of :func:`agents`.
    """
    _check_shares(single_share=single_share)
    prompts = Lognormal(single_prompt_median, single_prompt_sigma, low=8)
    outputs = Lognormal(single_output_median, single_output_sigma, low=4)
    loops: Iterator[Session] = agents(random, **agent_params)  # type: ignore[arg-type]
    loops = chain([next(loops)], loops)  # drawn before the first session, so that mistakes show at once
    for index in count():
        if random.random() < single_share:
            turn = Turn(prompts.draw(random, 16_384), outputs.draw(random, 4096))
            yield Session(f"s{index}", (turn,))
        else:
            yield replace(next(loops), session_id=f"s{index}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """The laws of one kind of session, and how a session grows by them."""

    first: Lognormal
    new: Lognormal
    output: Lognormal
    tool_gap: GapLaw
    human_gap: GapLaw
    human_share: float = 0.0
    gap_shrink: float = 0.0
    end_base: float = 0.0
    end_scale: float = 1.0
    window: int
    compact_to: float = 0.0
    max_output: int = 100_000_000

    def run(
        self, random: Random, name: str, prefix: int, ids: list[int], fresh_ids: Iterator[int], turns: int
    ) -> Session:
        """Return a session whose first prompt starts with `prefix` shared tokens, called `ids`."""
        own = self.first.draw(random, max(self.window // 2 - prefix, self.first.low))
        chunks = -(-(prefix + own) // HASH_CHUNK_TOKENS) if ids else 0
        ids = [*ids, *(next(fresh_ids) for _ in range(chunks - len(ids)))]
        return self.follow(random, name, prefix + own, ids, turns)

    def follow(self, random: Random, name: str, prompt: int, ids: list[int], turns: int) -> Session:
        """Return a session that starts with a prompt of `prompt` tokens, whose chunks are called `ids`."""
        output = self._answer(random, self.window - prompt)
        made = [Turn(prompt, output, hash_ids=tuple(ids))]
        context = prompt + output
        least = self.new.low + self.output.low
        for _ in range(turns - 1):
            new = self.new.draw(random, self.window)
            kept = None
            if context + max(new, least) + self.output.low > self.window:
                kept = int(self.compact_to * self.window)
                if not kept or kept + new + self.output.low > self.window or kept >= context:
                    break
            fill = context / self.window
            if random.random() < self.end_base * (1.0 + (self.end_scale - 1.0) * fill):
                break
            human = random.random() < self.human_share
            gap_s = (self.human_gap if human else self.tool_gap).draw(random)
            gap_s = round(gap_s * max(0.2, 1.0 - self.gap_shrink * fill), 3)
            context = (context if kept is None else kept) + new
            output = self._answer(random, self.window - context)
            made.append(Turn(new, output, gap_s, "human" if human else "tool", kept_tokens=kept))
            context += output
        return Session(name, tuple(made), chunk_tokens=HASH_CHUNK_TOKENS)

    def _answer(self, random: Random, room: int) -> int:
        return self.output.draw(random, min(room, self.max_output))


def _draw_turns(random: Random, mean_turns: float) -> int:
    """Return a number of turns by the geometric law of this mean."""
    turns = 1
    while turns < MAX_TURNS and random.random() * mean_turns >= 1.0:
        turns += 1
    return turns


def _check_multiple(name: str, tokens: int) -> None:
    check_count(name, tokens, 0, 100_000_000)
    if tokens % HASH_CHUNK_TOKENS:
        raise ValueError(f"{name} must be a multiple of {HASH_CHUNK_TOKENS} tokens, not {tokens!r}")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be from 0 to 1, not {share!r}")


def _check_mean_turns(mean_turns: float) -> None:
    if not 1.0 <= mean_turns <= 1000.0:
        raise ValueError(f"mean_turns must be from 1 to 1000, not {mean_turns!r}")


SESSION_GENERATORS: dict[str, Callable[..., Iterator[Session]]] = {
    "agents": agents,
    "chat-sessions": chat_sessions,
    "rollouts": rollouts,
    "mixed-sessions": mixed_sessions,
}
