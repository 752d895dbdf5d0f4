"""What the suites of the core and of the simulator share: workloads, profiles and fakes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from bidkv.profiles import CostLine, Regime, StepTimeProfile
from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.protocol.session_views import SessionTable


def steady_profile(step_s: float = 1.0) -> StepTimeProfile:
    """Every step takes `step_s`, an empty one too: times in goldens can be counted in steps."""
    regime = Regime(host=CostLine(base_s=step_s), gpu=CostLine())
    return StepTimeProfile(
        name="steady", kind="analytic", decode=regime, graph=regime, eager=regime, empty_step_s=step_s
    )


def requests_of(*lengths: tuple[int, int], arrivals: Sequence[float] | None = None) -> list[WorkloadRequest]:
    """Requests "r0", "r1", ... of (prompt, output) tokens, all at 0 s unless `arrivals` says otherwise."""
    times = arrivals or [0.0] * len(lengths)
    return [
        WorkloadRequest(f"r{index}", time, prompt, output)
        for index, ((prompt, output), time) in enumerate(zip(lengths, times, strict=True))
    ]


@st.composite
def workloads(
    draw: st.DrawFn, *, max_requests: int = 12, max_prompt: int = 60, max_output: int = 40
) -> list[WorkloadRequest]:
    """Small workloads: bursts and gaps, caps seen and unseen, priorities; no two arrive at the same time."""
    count = draw(st.integers(1, max_requests))
    gaps = draw(st.lists(st.sampled_from([2**-9, 2**-8, 0.5, 3.0, 40.0]), min_size=count, max_size=count))
    requests = []
    now = 0.0
    for index, gap in enumerate(gaps):
        now += gap
        output = draw(st.integers(1, max_output))
        requests.append(
            WorkloadRequest(
                f"r{index}",
                now,
                draw(st.integers(1, max_prompt)),
                output,
                max_tokens=draw(st.sampled_from([None, output, output + 5, max(1, output // 2)])),
                priority=draw(st.integers(-1, 1)),
            )
        )
    return requests


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(eq=False)
class FakeRequest:
    """A live request with every figure free to choose."""

    request_id: str
    num_prompt_tokens: int = 32
    num_output_tokens: int = 0
    num_computed_tokens: int = 32
    max_tokens: int | None = None
    num_preemptions: int = 0
    num_held_blocks: int = 2
    priority: int = 0
    arrival_s: float = 0.0
    deadline_s: float | None = None
    weight: float = 1.0
    agent_id: str = ""
    session_id: str = ""
    turn: int = 0
    gap_hint_s: float | None = None
    is_last_turn: bool = False
    num_cached_tokens: int = 0


@dataclass(eq=False)
class FakeEngine(EngineViewDefaults):
    """An engine that stands still: state to set by hand, every running request needs one more block."""

    running: list[FakeRequest] = field(default_factory=list)
    queue: list[FakeRequest] = field(default_factory=list)
    free_blocks: int = 0
    now_s: float = 0.0
    block_size: int = 16
    num_blocks: int = 100
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    prefix_caching: bool = False
    num_prefilling: int = 0
    num_steps: int = 0
    num_scheduled_tokens: int = 0
    sessions: SessionTable | None = None
    lost_token_price: float = 1.0

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    def waiting(self) -> Sequence[FakeRequest]:
        return list(self.queue)

    def is_waiting(self, request: RequestView) -> bool:
        return any(member.request_id == request.request_id for member in self.queue)

    def cached_tokens(self, request: RequestView) -> int:
        return 0

    def freed_blocks(self, request: RequestView) -> int:
        return request.num_held_blocks

    def block_demand(self, excluded: frozenset[str]) -> int:
        return sum(1 for request in self.running if request.request_id not in excluded)


class Scripted(Policy):
    """Answers each question with what a function gives; a question without a function stays unanswered."""

    name = "scripted"

    def __init__(
        self,
        *,
        victim: Callable[[Sequence[RequestView], int, EngineView], object] | None = None,
        following: Callable[[EngineView], object] | None = None,
        reserve: Callable[[EngineView], object] | None = None,
        cap: int | None = None,
    ) -> None:
        self.victim = victim
        self.following = following
        self.reserve = reserve
        self.preemption_cap = cap

    def __deepcopy__(self, memo: dict[int, object]) -> Scripted:
        # Tests keep looking at the one object they made, also after a controller started it afresh.
        return self

    @property
    def chooses_victims(self) -> bool:
        return self.victim is not None

    @property
    def chooses_next(self) -> bool:
        return self.following is not None

    @property
    def keeps_reserve(self) -> bool:
        return self.reserve is not None

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        assert self.victim is not None
        return self.victim(candidates, need_blocks, engine)  # type: ignore[return-value]

    def select_next(self, engine: EngineView) -> RequestView | None:
        assert self.following is not None
        return self.following(engine)  # type: ignore[return-value]

    def reserve_blocks(self, engine: EngineView) -> int:
        assert self.reserve is not None
        return self.reserve(engine)  # type: ignore[return-value]


class NothingCached:
    """A prefix cache in which nothing is ever cached; a `SessionCache`."""

    def cached_tokens(self, request: RequestView) -> int:
        return 0

    def block_keys(self, request: RequestView) -> Sequence[Hashable]:
        return ()

    def is_cached(self, key: Hashable) -> bool:
        return False

    reuses_parts = True

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        return 0
