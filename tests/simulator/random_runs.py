"""Random small engines and workloads for the comparison of the compiled engine with the reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, SessionArrivals, Turn
from bidkv.simulator import EngineConfig, SessionSource

LONGEST_PROMPTS = (40, 200, 900)
LONGEST_OUTPUTS = (5, 50, 200)


def random_engine(rng: random.Random, longest_prompt: int, longest_output: int) -> EngineConfig:
    """An engine that such requests mostly press on, with any of the features of vLLM."""
    max_num_seqs = rng.choice((2, 4, 8, 32, 64))
    block_size = rng.choice((16, 16, 16, 8, 5, 1))
    alone = -(-(longest_prompt + longest_output + 1) // block_size)
    more = rng.randint(0, alone * min(max_num_seqs, 8) // 8 + 1) * rng.choice((1, 1, 3))
    return EngineConfig(
        num_gpu_blocks=1 + alone + more,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=rng.choice((32, 128, 512, 2048)),
        watermark=rng.choice((0.0, 0.0, 0.05)),
        long_prefill_token_threshold=rng.choice((0, 0, 48)),
        reserve_full_isl=rng.random() < 0.8,
        enable_prefix_caching=rng.random() < 0.75,
        async_scheduling=rng.random() < 0.5,
        scheduling_policy=rng.choice(("fcfs", "fcfs", "priority")),
        prefix_chunk_tokens=rng.choice((16, 48, 100)),
    )


def random_requests(
    rng: random.Random, longest_prompt: int, longest_output: int, chunk_tokens: int
) -> list[WorkloadRequest]:
    """Single requests with shared prefixes, equal arrivals, priorities and caps; a few name a session."""
    rate_rps = rng.choice((8.0, 40.0, 200.0, 1e4))
    documents = [[rng.randrange(5) for _ in range(12)] for _ in range(4)]
    arrival_s = 0.0
    requests = []
    for index in range(rng.randint(20, 80)):
        arrival_s += rng.expovariate(rate_rps) if rng.random() < 0.8 else 0.0
        prompt_tokens = rng.randint(1, longest_prompt)
        hash_ids = tuple(rng.choice(documents)[: rng.randint(0, 12)]) if rng.random() < 0.7 else ()
        if rng.random() < 0.5:  # prompts that end with a chunk are found whole, but for their last token
            whole = len(hash_ids) * chunk_tokens + rng.choice((0, 0, 1, 20))
            prompt_tokens = min(longest_prompt, max(1, whole))
        session_id = rng.choice(("", "", "", f"s{rng.randrange(6)}"))
        requests.append(
            WorkloadRequest(
                f"r{rng.randrange(100)}-{index}",
                arrival_s,
                prompt_tokens,
                rng.randint(1, longest_output),
                max_tokens=rng.choice((None, longest_output, 3)),
                priority=rng.choice((0, 0, 1, 5)),
                hash_ids=hash_ids,
                session_id=session_id,
                turn=index if session_id else 0,
                is_last_turn=bool(session_id) and rng.random() < 0.3,
            )
        )
    return requests


def random_sessions(rng: random.Random, longest_prompt: int, longest_output: int) -> list[Session]:
    """Sessions with shared chunks, caps below the answer, gaps of nothing, and pasts that are rewritten."""
    sessions = []
    for index in range(rng.randint(4, 25)):
        turns: list[Turn] = []
        context = 0
        for number in range(rng.randint(1, 7)):
            new_tokens = rng.randint(1, longest_prompt // 4)
            output_tokens = rng.randint(1, longest_output)
            kept_tokens = rng.randint(0, context) if number and rng.random() < 0.2 else None
            hashed = rng.randint(0, new_tokens // 20) if rng.random() < 0.5 else 0
            turns.append(
                Turn(
                    new_tokens,
                    output_tokens,
                    gap_s=rng.choice((0.0, rng.expovariate(2.0))) if number else 0.0,
                    hash_ids=tuple(rng.randrange(3) for _ in range(hashed)),
                    max_tokens=rng.choice((None, longest_output, 2)),
                    kept_tokens=kept_tokens,
                )
            )
            context = (context if kept_tokens is None else kept_tokens) + new_tokens + output_tokens
        sessions.append(
            Session(
                f"s{index}",
                tuple(turns),
                start_s=rng.choice((0.0, 3.0 * rng.random())),
                priority=rng.choice((0, 0, 2)),
                chunk_tokens=20,
            )
        )
    return sessions


def random_source(
    rng: random.Random, longest_prompt: int, longest_output: int
) -> Callable[[], SessionSource]:
    """Make a function that returns the same closed loop anew."""
    sessions: Sequence[Session] = random_sessions(rng, longest_prompt, longest_output)
    arrivals = rng.choice(
        (
            SessionArrivals.at_concurrency(rng.randint(1, 8), stagger_s=rng.choice((0.0, 0.2))),
            SessionArrivals.at_once(),
            SessionArrivals.at_rate(5.0, seed=rng.randrange(100)),
            SessionArrivals.at_own_times(),
        )
    )
    if arrivals.kind == "own":
        sessions = sorted(sessions, key=lambda session: session.start_s or 0.0)
    patience_s = rng.choice((None, None, 0.5, 3.0))
    tells_ends, tells_sessions = rng.random() < 0.7, rng.random() < 0.8
    return lambda: SessionSource(
        sessions, arrivals, patience_s=patience_s, tells_ends=tells_ends, tells_sessions=tells_sessions
    )
